import numpy as np
import pytest

from mobilevd.device import targets
from mobilevd.device.profile import profile
from mobilevd.errors import MobileVDError


def test_the_host_is_a_target_of_kind_host():
    assert (targets.find("host-cpu").name, targets.find("host-cpu").kind) == ("host-cpu", "host")


def test_a_phone_keeps_its_name_and_is_no_host():
    phone = targets.find("qai-hub:Samsung Galaxy S24")
    assert (phone.name, phone.kind) == ("qai-hub:Samsung Galaxy S24", "phone")


@pytest.mark.parametrize("name", ["host", "Samsung Galaxy S24", "qai-hub:", "qai-hub: ", "HOST-CPU", ""])
def test_an_unknown_device_is_refused_with_what_is_allowed(name):
    with pytest.raises(MobileVDError, match="host-cpu") as error:
        targets.find(name)
    assert "qai-hub:Samsung Galaxy S24" in str(error.value)
    assert "not measured" in str(error.value)


def test_this_machine_is_never_measured_in_a_phones_name(tmp_path):
    with pytest.raises(MobileVDError, match="another device's name"):
        profile(tmp_path / "any.onnx", {"x": np.zeros(1)}, targets.find("qai-hub:Samsung Galaxy S24"), 0, 1)
