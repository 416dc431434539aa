"""What is said to a browser or in a report that is passed on tells no folder of this machine."""

import time
from pathlib import Path

import pytest
from sdxl_trainer.trainer.runs.without_folders import without_folders

HOME = str(Path.home())


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("cannot read /home/me/ComfyUI/input/cats/a.png: gone", "cannot read a.png: gone"),
        ("OSError:/home/me/x.bin", "OSError:x.bin"),
        ("moved /home/me/a.png to /home/me/b.png", "moved a.png to b.png"),
        ("cannot write to /data", "cannot write to data"),
        ("is it in /data?", "is it in data?"),
        ("file:///home/me/a/b.png", "b.png"),
        ("'file:///home/John Doe/x'", "'x'"),
        ("~/secret/x.png", "x.png"),
        ("'C:\\Users\\me\\cats\\a.png' is broken", "'a.png' is broken"),
        (str(OSError(2, "gone", r"C:\Users\John Doe\loras\x.png")), "[Errno 2] gone: 'x.png'"),
        (r"C:\Users\John Doe\loras\x.png is gone", "x.png is gone"),
        (r"C:\\Users\\John Doe\\loras\\x.png is gone", "x.png is gone"),
        ("C:/Users/John Doe/x.png", "x.png"),
        (r"\\server\share\x.png", "x.png"),
        (r"\\?\C:\Users\me\x.png", "x.png"),
        ("gone: '/mnt/My Disk/loras/x'", "gone: 'x'"),
        ('gone: "/mnt/My Disk/it\'s/x"', 'gone: "x"'),
        ("/mnt/My Disk/loras/x.png", "x.png"),
        ("it's /home/me/x and isn't /a/b", "it's x and isn't b"),
        (f"{HOME}/a/b.png", "b.png"),
        (f"your home is {HOME}", "your home is ~"),
    ],
)
def test_of_an_absolute_path_the_name_is_left(said, shown):
    assert without_folders(said) == shown


@pytest.mark.parametrize(
    "said",
    [
        "folder 'input/cats/small' holds no picture",
        "see https://example.org/a/b, step 3/4, and/or",
        "12 samples / batch 2, 3 /4",
        "<script>alert(1)</script>",
        "the file is '/'",
        "10:15, rate 1e-4: it's all right",
    ],
)
def test_what_is_no_absolute_path_stays(said):
    assert without_folders(said) == said


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("/mnt/My Big Disk of 2020/my loras/a b.safetensors: full", "my loras/a b.safetensors: full"),
        ("'/mnt/My Big Disk of 2020/my loras/sub/x'", "'my loras/sub/x'"),
        ("'\\\\mnt\\\\My Big Disk of 2020\\\\my loras\\\\x'", "'my loras\\\\x'"),
        ("is /mnt/My Big Disk of 2020/my loras.", "is my loras."),
        ("/mnt/cats2/x", "x"),
    ],
)
def test_a_folder_that_is_known_keeps_its_name_and_what_lies_in_it(said, shown):
    folders = [Path("/mnt"), Path("/mnt/cats"), Path("/mnt/My Big Disk of 2020/my loras"), Path("/")]
    assert without_folders(said, folders[1:]) == shown


@pytest.mark.parametrize(
    "piece",
    ["/a ", "'/", "\"'/x ", "/a b c ", "a/", "\\", "/", "C:\\a b", "x:", "file:", "~", "/// ", "/a.b "],
)
def test_a_long_text_takes_time_in_proportion(piece):
    began = time.process_time()
    without_folders(piece * 20_000, [Path("/mnt/My Disk")])
    assert time.process_time() - began < 2  # milliseconds; were it the square, minutes
