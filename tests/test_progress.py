"""Work told of, stopped, and dealt out: who of a team does which piece, and what all get."""

import pytest
from teams import as_team

from svl_core.errors import InputError
from svl_core.progress import ALONE, QUIET, Run, Team


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("pieces", [0, 1, 2, 5])
def test_pieces_go_round_and_all_results_come_back_in_order(count, pieces):
    done = []

    def body(run):
        def work(piece, alone):
            assert alone.team is ALONE  # nothing in a piece is dealt out again
            done.append((piece, run.team.rank))
            return piece * piece

        return list(run.deal(range(pieces), work))

    assert as_team(count, body) == [[piece * piece for piece in range(pieces)]] * count
    assert sorted(done) == [(piece, piece % count) for piece in range(pieces)]


def test_alone_each_result_comes_before_the_next_piece():
    done = []
    results = QUIET.deal("abc", lambda piece, run: done.append(piece) or piece.upper())
    assert next(results) == "A" and done == ["a"]
    assert list(results) == ["B", "C"]


def test_what_one_raises_all_raise():
    def body(run):
        def work(piece, alone):
            if piece == 3:
                raise InputError("Found a 3.")
            return piece

        return list(run.deal(range(6), work))

    outcomes = as_team(2, body)
    assert [str(error) for error in outcomes] == ["Found a 3."] * 2
    assert {type(error) for error in outcomes} == {InputError}


def test_parts_of_a_team_s_run_are_the_team_s_too():
    team = Team(1, 2, lambda work: [None, work()])
    run = Run(team=team)
    assert {run.silent().team, run.part(0, 0.5).team, run.telling(print).team} == {team}
