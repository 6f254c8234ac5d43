"""Long calls say how far they are, and end when the one they tell raises."""

import numpy as np
import pytest

from nopokedb import InvalidError, NoPokeDB


@pytest.fixture
def rows(path, rng):
    with NoPokeDB(dim=8, path=path) as db:
        db.add_many(rng.normal(size=(500, 8)))
        yield db


@pytest.mark.parametrize("call", [lambda db, p: db.recall(sample=50, progress=p), lambda db, p: db.wait_indexed(progress=p)])
def test_progress_is_told_to_the_end(rows, capfd, call):
    told = []
    assert call(rows, lambda done, total: told.append((done, total))) == call(rows, None) == call(rows, False)
    assert told == sorted(told) and told[-1][0] == told[-1][1] > 0
    assert capfd.readouterr().err == ""
    call(rows, True)
    drawn = capfd.readouterr().err
    assert drawn.startswith("\r") and drawn.endswith(" s\n") and "100%" in drawn

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call(rows, stop)
    with pytest.raises(InvalidError, match="progress must be"):
        call(rows, 3)
    assert len(rows.query(np.ones(8))) == 5, "nothing is left in disorder"
