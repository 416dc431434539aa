import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageFile, features
from sdxl_trainer.trainer.data.pictures import (
    UnreadablePictureError,
    decode_alpha,
    decode_picture,
    inspect_picture,
    looks_like_picture,
    read_picture,
    whole_files_only,
)

QUADRANTS = ((220, 30, 30), (30, 200, 30), (30, 30, 220), (230, 230, 40))  # row by row
UNDO = {  # what a camera did to the upright picture before storing it with this orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def encode(image, kind="PNG", **options):
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def quadrants(width=64, height=32):
    image = Image.new("RGB", (width, height))
    for index, color in enumerate(QUADRANTS):
        left, top = index % 2 * width // 2, index // 2 * height // 2
        image.paste(color, (left, top, left + width // 2, top + height // 2))
    return image


def noise(width=128, height=96, channels=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def png_chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, color_type, rows, extra=b""):
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(kind, orientation):  # case 12
    upright = quadrants()
    stored = upright.transpose(UNDO[orientation]) if orientation in UNDO else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))

    picture = decode_picture(data)

    assert picture.size == upright.size
    for index, color in enumerate(QUADRANTS):
        pixel = picture.getpixel((16 + index % 2 * 32, 8 + index // 2 * 16))
        assert np.abs(np.subtract(pixel, color)).max() < 12, (orientation, index)
    facts = inspect_picture(data)
    assert (facts.width, facts.height) == upright.size


def test_16_bit_grey_is_scaled_not_clipped():  # case 13
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    picture = np.asarray(decode_picture(encode(Image.fromarray(values))))
    expected = np.round(values / 257).astype(np.uint8)
    assert np.array_equal(picture, np.repeat(expected[..., None], 3, axis=2))


def test_16_bit_rgb_keeps_its_high_bytes():  # case 14
    values = np.linspace(0, 65535, 12 * 3).astype(">u2").reshape(3, 4, 3)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    picture = np.asarray(decode_picture(png(4, 3, 16, 2, rows)))
    assert np.abs(picture.astype(int) - values / 257).max() <= 1


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 255.0), (0.0, 65535.0), (-3.0, 7.0)])
def test_float_tiff_spans_the_whole_range(low, high):  # case 15
    values = np.linspace(low, high, 64, dtype=np.float32).reshape(8, 8)
    data = encode(Image.fromarray(values), "TIFF")
    picture = np.asarray(decode_picture(data))[..., 0].ravel()
    assert picture[0] == 0 and picture[-1] == 255
    assert np.all(np.diff(picture.astype(int)) >= 3)
    assert bool(inspect_picture(data).warnings) == (high != 1.0)


def test_cmyk_jpeg_without_profile_shows_its_inks():  # case 16
    cyan = encode(Image.new("CMYK", (32, 32), (255, 0, 0, 0)), "JPEG", quality=100)
    assert np.abs(np.subtract(decode_picture(cyan).getpixel((9, 9)), (0, 255, 255))).max() < 4


def test_ycck_jpeg_is_read_as_such():  # case 16
    neutral = encode(Image.new("CMYK", (32, 32), (127, 127, 127, 0)), "JPEG", quality=100)
    marker = neutral.index(b"Adobe") + 11
    ycck = neutral[:marker] + b"\x02" + neutral[marker + 1 :]  # middle values are neutral in both
    assert np.abs(np.subtract(decode_picture(ycck).getpixel((9, 9)), 128)).max() < 4


def test_cmyk_goes_through_its_own_profile():  # case 16
    picture = Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    data = encode(picture, "JPEG", quality=100, icc_profile=grey_ink_profile())
    red, green, blue = decode_picture(data).getpixel((9, 9))
    # The profile calls every ink a grey of L* = 75: sRGB 185, where plain cyan would be (0, 255, 255).
    assert max(abs(red - 185), abs(green - 185), abs(blue - 185)) <= 4


def test_a_wide_gamut_profile_is_turned_into_srgb():  # case 23
    # Display P3's primaries with a plain gamma of 2.2; reference computed here from the matrices.
    to_xyz = np.array(
        [[0.51512, 0.29198, 0.15710], [0.24120, 0.69225, 0.06657], [-0.00105, 0.04189, 0.78407]]
    )
    color = np.array([180, 120, 90])
    data = encode(Image.new("RGB", (8, 8), tuple(color.tolist())), icc_profile=matrix_profile(to_xyz, 2.2))
    srgb_to_xyz_d50 = np.array(
        [
            [0.4360747, 0.3850649, 0.1430804],
            [0.2225045, 0.7168786, 0.0606169],
            [0.0139322, 0.0971045, 0.7141733],
        ]
    )
    linear = np.linalg.inv(srgb_to_xyz_d50) @ to_xyz @ (color / 255) ** 2.2
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    got = decode_picture(data).getpixel((4, 4))
    assert np.abs(got - expected).max() <= 2
    assert np.abs(expected - color).max() > 8  # the profile matters at all


def test_a_profile_that_does_not_fit_is_named_and_passed_over():
    data = encode(Image.new("RGB", (32, 32), (10, 200, 30)), icc_profile=b"no profile" * 20)
    assert decode_picture(data).getpixel((0, 0)) == (10, 200, 30)
    assert "profile" in inspect_picture(data).warnings[0]


@pytest.mark.parametrize(("mode", "fill"), [("L", 77), ("LA", (77, 255)), ("1", 1)])
def test_grey_modes_become_grey_rgb(mode, fill):  # case 17
    value = 255 if mode == "1" else 77
    assert decode_picture(encode(Image.new(mode, (20, 20), fill))).getpixel((3, 3)) == (value,) * 3


def test_transparent_palette_entry_shows_the_background():  # case 18
    image = Image.new("P", (20, 20), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, 10, 20))
    picture = decode_picture(encode(image, transparency=0), "#102030")
    assert picture.getpixel((2, 2)) == (0x10, 0x20, 0x30)
    assert picture.getpixel((15, 2)) == (0, 0, 255)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour_key_shows_the_background(mode):
    key = 0 if mode == "L" else (0, 0, 0)
    data = encode(Image.new(mode, (20, 20), key), transparency=key)
    assert decode_picture(data, "yellow").getpixel((2, 2)) == (255, 255, 0)


def test_colours_hidden_under_transparency_stay_hidden():  # case 19
    image = Image.new("RGBA", (20, 20), (255, 0, 255, 0))
    image.paste((0, 100, 0, 128), (0, 0, 10, 20))
    picture = decode_picture(encode(image), "#ffffff")
    assert picture.getpixel((15, 5)) == (255, 255, 255)
    assert np.abs(np.subtract(picture.getpixel((5, 5)), (127, 177, 127))).max() <= 1


def test_a_fully_transparent_picture_is_kept_with_a_warning():  # case 20
    facts = inspect_picture(encode(Image.new("RGBA", (40, 30), (9, 9, 9, 0))))
    assert (facts.width, facts.height) == (40, 30)
    assert "transparent" in facts.warnings[0]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(kind):  # case 21
    frames = [Image.new("RGB", (32, 32), color) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
    assert np.abs(np.subtract(decode_picture(data).getpixel((5, 5)), (255, 0, 0))).max() < 3
    assert "animated" in inspect_picture(data).warnings[0]


def test_mpo_of_a_phone_is_an_ordinary_picture():  # case 22
    first, second = Image.new("RGB", (32, 32), "red"), Image.new("RGB", (32, 32), "blue")
    data = encode(first, "MPO", save_all=True, append_images=[second])
    assert decode_picture(data).getpixel((5, 5))[0] > 250
    assert inspect_picture(data).warnings == ()


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
def test_avif_is_read():  # case 22
    assert decode_picture(encode(quadrants(), "AVIF")).size == (64, 32)


def test_heic_is_named_for_what_it_is():  # case 22
    head = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 64
    assert looks_like_picture(head)
    with pytest.raises(UnreadablePictureError, match="HEIC"):
        inspect_picture(head)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_file_cut_off_anywhere_is_found(kind):  # cases 6, 7
    data = encode(Image.fromarray(noise()), kind)
    for share in (0.02, 0.3, 0.5, 0.8, 0.97):
        with pytest.raises(UnreadablePictureError):
            inspect_picture(data[: int(len(data) * share)])
    inspect_picture(data)


def test_a_progressive_jpeg_cut_off_is_found():
    data = encode(Image.fromarray(noise()), "JPEG", progressive=True)
    with pytest.raises(UnreadablePictureError, match="cut off"):
        inspect_picture(data[: len(data) // 2])


def test_a_lenient_neighbour_does_not_let_a_cut_file_pass(monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = encode(Image.fromarray(noise()), "JPEG")
    with whole_files_only(), pytest.raises(UnreadablePictureError):
        inspect_picture(data[: len(data) // 2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_never_raise_anything_else():
    chance = np.random.default_rng(1)
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        whole = np.frombuffer(encode(Image.fromarray(noise(32, 32)), kind), dtype=np.uint8)
        for _ in range(40):
            damaged = whole.copy()
            damaged[chance.integers(0, min(400, len(damaged)), 6)] = chance.integers(0, 256, 6)
            try:
                inspect_picture(damaged.tobytes())
                decode_picture(damaged.tobytes())
            except UnreadablePictureError:
                continue


def test_an_empty_file_and_a_web_page_are_named():  # cases 5, 8
    with pytest.raises(UnreadablePictureError, match="0 bytes"):
        inspect_picture(b"")
    with pytest.raises(UnreadablePictureError, match="web page"):
        inspect_picture(b"\n<!DOCTYPE html><html><body>404</body></html>")


def test_postscript_is_not_opened():
    eps = encode(Image.new("RGB", (20, 20)), "EPS")
    with pytest.raises(UnreadablePictureError, match="no picture of a known format"):
        inspect_picture(eps)


@pytest.mark.parametrize("pillow_limit", [Image.MAX_IMAGE_PIXELS, None])
def test_a_decompression_bomb_is_refused(monkeypatch, pillow_limit):  # case 24
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillow_limit)
    with pytest.raises(UnreadablePictureError, match="178,956,970 pixels"):
        inspect_picture(png(20_000, 20_000, 8, 2, b"\0" * 1000))


def test_the_ending_of_a_file_does_not_matter(tmp_path):  # case 9
    path = tmp_path / "really_webp.png"
    path.write_bytes(encode(Image.new("RGB", (24, 24), (1, 2, 3)), "WEBP", lossless=True))
    assert read_picture(path).getpixel((0, 0)) == (1, 2, 3)


def test_a_missing_file_is_an_unreadable_picture(tmp_path):
    with pytest.raises(UnreadablePictureError, match="cannot be read"):
        read_picture(tmp_path / "gone.png")


def test_grey_with_transparency_goes_through_its_grey_profile():
    profile = icc(
        b"GRAY",
        b"XYZ ",
        {
            b"desc": text_tag(b"linear grey"),
            b"cprt": b"text\0\0\0\0none\0",
            b"wtpt": xyz_tag((0.9642, 1.0, 0.8249)),
            b"kTRC": b"curv" + struct.pack(">IIH", 0, 1, 256),
        },
    )
    for mode, fill in (("L", 77), ("LA", (77, 255))):
        data = encode(Image.new(mode, (20, 20), fill), icc_profile=profile)
        assert np.abs(np.subtract(decode_picture(data).getpixel((3, 3)), 149)).max() <= 2  # sRGB of 77/255
        assert inspect_picture(data).warnings == ()


def icc(device, pcs, tags):
    """A version 2 ICC profile: header, tag table, tags."""
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    content = struct.pack(">I", len(tags)) + table + body
    header = struct.pack(">I4sI4s4s4s", 128 + len(content), b"lcms", 0x02400000, b"prtr", device, pcs)
    header += b"\0" * 12 + b"acsp" + b"\0" * 28 + struct.pack(">iii", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + content


def text_tag(text):
    return b"desc" + struct.pack(">II", 0, len(text) + 1) + text + b"\0" * 79


def matrix_profile(to_xyz, gamma):
    tags = {
        b"desc": text_tag(b"wide"),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz_tag((0.9642, 1.0, 0.8249)),
    }
    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256))
    for index, letter in enumerate((b"r", b"g", b"b")):
        tags[letter + b"XYZ"] = xyz_tag(to_xyz[:, index])
        tags[letter + b"TRC"] = curve
    return icc(b"RGB ", b"XYZ ", tags)


def xyz_tag(values):
    return b"XYZ \0\0\0\0" + struct.pack(">iii", *(round(value * 65536) for value in values))


def grey_ink_profile():
    """CMYK -> L* = 100 less 25 for each full ink, as a lut8 of the 16 corners."""
    ramp = bytes(range(256))
    corners = b"".join(bytes([round(2.55 * (100 - 25 * bin(i).count("1"))), 128, 128]) for i in range(16))
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + identity + ramp * 4 + corners + ramp * 3
    tags = {
        b"desc": text_tag(b"inks"),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz_tag((0.9642, 1.0, 0.8249)),
    }
    return icc(b"CMYK", b"Lab ", {**tags, b"A2B0": lut, b"A2B1": lut})


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "rgb with a key colour"])
def test_opacity_is_read_from_every_mode_that_has_it(kind):  # case 19
    alpha = noise(channels=1)[..., 0]
    if kind == "P":
        alpha = (alpha > 127).astype(np.uint8) * 255
        image = Image.fromarray((alpha > 0).astype(np.uint8), "P")
        image.putpalette([9, 9, 9, 200, 0, 0])
        data = encode(image, transparency=0)
    elif kind == "rgb with a key colour":
        alpha = (alpha > 127).astype(np.uint8) * 255
        image = Image.fromarray(np.repeat(alpha[..., None], 3, axis=2))
        data = encode(image, transparency=(0, 0, 0))
    else:
        image = Image.new(kind, (128, 96), 200)
        image.putalpha(Image.fromarray(alpha))
        data = encode(image)
    assert np.array_equal(decode_alpha(data), alpha)


def test_opacity_is_turned_upright_with_the_picture():
    alpha = noise(channels=1)[..., 0]
    for orientation, undo in UNDO.items():
        stored = Image.merge("LA", [Image.new("L", (128, 96)), Image.fromarray(alpha)]).transpose(undo)
        exif = Image.Exif()
        exif[0x0112] = orientation
        assert np.array_equal(decode_alpha(encode(stored, exif=exif)), alpha), orientation


def test_a_picture_without_transparency_has_no_opacity():
    for image in (quadrants(), quadrants().convert("L"), quadrants().convert("P")):
        assert decode_alpha(encode(image)) is None
    assert decode_alpha(encode(quadrants(), "JPEG")) is None
    with pytest.raises(UnreadablePictureError, match="0 bytes"):
        decode_alpha(b"")
