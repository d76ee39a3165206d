"""The file of people's answers: each pair once, whoever wrote what into it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs.directory.layout import JobFolder
from jobs.preferences.answers import AnswerKeptError, add_answer, read_answers
from jobs.preferences.pairs import pair_number


def test_an_answer_is_kept_and_the_same_again_changes_nothing(folder: JobFolder) -> None:
    assert read_answers(folder) == {}
    first = add_answer(folder, pair_number(0, 1), 1, "ada", most=5)
    before = folder.answers.read_bytes()
    assert add_answer(folder, pair_number(0, 1), 1, "bob", most=5) == first == read_answers(folder)
    assert folder.answers.read_bytes() == before
    (answer,) = first.values()
    assert (answer.trials, answer.better, answer.who) == ((0, 1), 1, "ada")
    for other in (0, None):
        with pytest.raises(AnswerKeptError, match="answered otherwise"):
            add_answer(folder, pair_number(0, 1), other, "bob", most=5)
    assert folder.answers.read_bytes() == before


def test_a_search_takes_as_many_answers_as_it_asks_for(folder: JobFolder) -> None:
    add_answer(folder, 0, None, "", most=1)
    with pytest.raises(AnswerKeptError, match="all of its 1"):
        add_answer(folder, 1, None, "", most=1)
    # The last one again is no error.
    assert list(add_answer(folder, 0, None, "", most=1)) == [0]


def test_people_who_answer_at_the_same_time_lose_nothing(folder: JobFolder) -> None:
    def answer(number: int) -> bool:
        try:
            add_answer(folder, number // 2, None, str(number), most=15)
        except AnswerKeptError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(answer, range(40)))
    assert len(read_answers(folder)) == 15
    assert folder.answers.read_bytes().count(b"\n") == 15
    assert sum(done) >= 15


def test_what_is_torn_damaged_or_impossible_is_left_out(folder: JobFolder) -> None:
    add_answer(folder, 0, 1, "", most=9)
    with folder.answers.open("a") as file:
        file.write('{"pair": 1, "better": 7, "time": 1}\n')  # 7 is not in the pair
        file.write('{"pair": -1, "better": null, "time": 1}\n{"pair": 99999999999, "better": null, "time": 1}\n')
        file.write('{"pair": 0, "better": 0, "time": 1}\n')  # the first answer counts
        file.write('{"pair": 2, "better": null, "time": 1, "of a later release": 1}\n{"pair": 3, "bet')
    assert {pair: answer.better for pair, answer in read_answers(folder).items()} == {0: 1, 2: None}
    add_answer(folder, 4, None, "", most=9)
    assert list(read_answers(folder)) == [0, 2, 4]
