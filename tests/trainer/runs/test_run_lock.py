import subprocess
import sys
from pathlib import Path

import pytest
from sdxl_trainer.trainer.errors import InputError
from sdxl_trainer.trainer.runs import run_lock
from sdxl_trainer.trainer.runs.run_lock import lock_run


def test_second_run_in_the_same_process_is_refused_by_name(tmp_path):
    folder = tmp_path / "cat"
    folder.mkdir()
    with lock_run(folder), pytest.raises(InputError, match="'cat' is training"), lock_run(folder):
        pass


def test_lock_is_free_again_after_the_run_and_after_an_error(tmp_path):
    with lock_run(tmp_path):
        pass
    with pytest.raises(KeyError), lock_run(tmp_path):
        raise KeyError
    with lock_run(tmp_path):
        pass


def test_a_killed_process_leaves_no_lock(tmp_path):
    package = str(Path(run_lock.__file__).parents[1])
    code = (
        "import sys, types, time; p = types.ModuleType('p'); sys.modules['p'] = p\n"
        f"p.__path__ = [{package!r}]\n"
        "from pathlib import Path; from p.runs.run_lock import lock_run\n"
        f"with lock_run(Path({str(tmp_path)!r})): print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError), lock_run(tmp_path):
            pass
        other.kill()
        other.wait()
    with lock_run(tmp_path):
        pass
