from types import SimpleNamespace

from mobilevd import progress


def test_every_item_comes_through_in_order():
    assert list(progress.track(iter("abc"), 3, "letters")) == ["a", "b", "c"]


def test_plain_lines_are_few_and_the_last_tells_the_count(capsys):
    assert len(list(progress.track(range(1000), 1000, "quick"))) == 1000
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("quick: 1000/1000")


def test_slow_work_says_how_far_it_is(capsys, monkeypatch):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    list(progress.track(range(100), 100, "slow"))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines] == [f"slow: {k}/100" for k in (*range(4, 100, 4), 100)]


def test_work_of_unknown_length_is_counted(capsys):
    list(progress.track(iter(range(5)), None, "files"))
    assert capsys.readouterr().err.startswith("files: 5 (")


def test_rate_and_time_left_are_told(capsys, monkeypatch):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))
    list(progress.track(range(8), 8, "slow"))
    assert "slow: 4/8 (12 s, 0.333/s, 12 s left)" in capsys.readouterr().err.splitlines()


def test_a_picture_goes_to_those_who_look_and_to_nobody_afterwards(tmp_path):
    seen = []
    with progress.shown(lambda label, path: seen.append((label, path))):
        progress.picture("first", tmp_path)
    progress.picture("second", tmp_path)
    assert seen == [("first", tmp_path)]
