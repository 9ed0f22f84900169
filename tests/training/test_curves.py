from PIL import Image

from mobilevd.training import curves


def test_every_curve_gets_a_panel_in_a_picture_that_opens(tmp_path):
    points = {name: [(k, k**0.5) for k in range(1, 50)] for name in ("loss", "val_loss", "lr", "grad_norm")}
    one = Image.open(curves.draw({"loss": points["loss"]}, tmp_path / "a" / "one.png", "finetune"))
    four = Image.open(curves.draw(points, tmp_path / "four.png", "finetune"))
    assert one.format == four.format == "PNG"
    assert four.height > one.height


def test_the_smooth_line_is_the_running_mean():
    assert curves._running_mean([1.0, 3.0, 5.0, 7.0], 2) == [1.0, 2.0, 4.0, 6.0]
