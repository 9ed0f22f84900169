"""diffusers is loaded without what nothing here uses; who asks for that finds it."""

import importlib
import json
import subprocess
import sys

import pytest

from mobilevd.svd.upstream import UNUSED, unseen

TOLD = "print(json.dumps([name for name in ('diffusers', *UNUSED) if name in sys.modules]))"


def test_a_stage_starts_without_what_diffusers_would_bring():
    code = f"import json, sys; import mobilevd.stages.funnel; from mobilevd.svd.upstream import UNUSED; {TOLD}; "
    code += f"import bitsandbytes, scipy.stats; {TOLD}"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    before, after = map(json.loads, said.splitlines()[-2:])
    assert before == ["diffusers"]
    assert after == ["diffusers", *UNUSED]


def test_a_package_is_unseen_for_as_long_as_asked_even_when_that_ends_in_an_error(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "unused_package.py").write_text("")
    with pytest.raises(ModuleNotFoundError, match="unused_package"), unseen("unused_package"):
        importlib.import_module("unused_package")
    import unused_package

    with unseen("unused_package"):
        assert sys.modules["unused_package"] is unused_package
    monkeypatch.delitem(sys.modules, "unused_package")
