from matplotlib.figure import Figure

from mobilevd.device.charts import Panel, _draw, bars


def drawn(groups):
    axes = Figure().add_subplot()
    _draw(axes, Panel("title", "ms", groups))
    return axes


def test_a_value_that_is_not_there_is_left_out_and_not_called_zero():
    axes = drawn({"quantized": {"Conv": 3.0, "QuantizeLinear": 2.0}, "float": {"Conv": 1.0}})
    assert [label.get_text() for label in axes.get_yticklabels()] == ["Conv", "QuantizeLinear"]
    assert [text.get_text() for text in axes.texts] == ["3", "2", "1", ""]


def test_values_have_three_digits_and_no_exponent():
    axes = drawn({"": {"a": 1353.4, "b": 99.96, "c": 0.0847}})
    assert [text.get_text() for text in axes.texts] == ["1353", "100", "0.0847"]


def test_two_groups_get_a_legend_and_one_gets_none():
    assert drawn({"a": {"x": 1.0}, "b": {"x": 2.0}}).get_legend() is not None
    assert drawn({"": {"x": 1.0}}).get_legend() is None


def test_a_chart_is_a_picture_file(tmp_path):
    path = bars([Panel("sizes", "MB", {"": {"float": 20.0, "quantized": 6.5}})], tmp_path / "deep" / "a.png", "title")
    assert path.read_bytes().startswith(b"\x89PNG")
