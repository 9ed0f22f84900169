import one_step_graphs
import pytest


@pytest.fixture(scope="session")
def graphs(tmp_path_factory):
    return one_step_graphs.copy(tmp_path_factory)
