"""The report as IMAGE."""

import pytest
from PIL import Image


@pytest.fixture
def report_image():
    from sdxl_trainer.nodes.report_picture import report_image

    return report_image


def test_the_picture_comes_out_as_it_lies_on_the_disk(report_image, tmp_path):
    Image.new("RGB", (30, 20), (255, 0, 51)).save(tmp_path / "report.png")
    image = report_image(tmp_path / "report.png")
    assert image.shape == (1, 20, 30, 3)
    assert image[0, 0, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])


def test_it_comes_out_at_half_its_width_as_comfyui_keeps_it(report_image, tmp_path):
    Image.new("RGB", (1600, 901), (255, 0, 51)).save(tmp_path / "report.png")
    image = report_image(tmp_path / "report.png")
    assert image.shape == (1, 450, 800, 3)
    assert image[0, 449, 799].tolist() == pytest.approx([1.0, 0.0, 0.2])


@pytest.mark.parametrize("content", [None, b"", b"\x89PNG\r\n\x1a\n cut off"])
def test_a_report_that_could_not_be_written_is_a_small_grey_picture(report_image, tmp_path, content):
    path = tmp_path / "report.png"
    if content is not None:
        path.write_bytes(content)
    image = report_image(path)
    assert image.shape == report_image(None).shape == (1, 64, 64, 3)
    assert image.min() == image.max() == 0.5
