"""Judges with planted faults, and the methods that are to remove them; a judge behind HTTP, against a server on this machine."""

import http.server
import json
import math
import threading

import numpy as np
import pytest

from lab import evaluate, judges, world
from lab.judges import JudgeError

LONG, SHORT = "one two three four five six seven eight nine ten eleven twelve", "one two"


def test_the_gold_judge_is_a_judge():
    task = world.Task("fact", "Where does Ann live?", "Ann lives in Irby.", "Irby", ("Irby", "Kelso"))
    by_score, by_truth = judges.gold([task]), judges.gold([task], "correct")
    assert by_score(task.prompt, task.sentence, "Irby") == 1 and by_score(task.prompt, "Irby", task.sentence) == 0
    assert by_truth(task.prompt, task.sentence, "Irby") == 0.5 and by_truth(task.prompt, "Kelso", "Irby") == 0


def test_a_judge_by_score_follows_bradley_and_terry():
    judge = judges.by_score(lambda prompt, response: float(response), strength=2.0)
    assert judge("x", "1.5", "1.0") == pytest.approx(1 / (1 + math.exp(-1)))
    assert judge("x", "1.5", "1.0") + judge("x", "1.0", "1.5") == pytest.approx(1)


def even(prompt, first, second):
    return 0.5


def test_planted_faults_are_what_was_dialled():
    assert judges.biased(even, position=0.7)("x", SHORT, SHORT) == pytest.approx(1 / (1 + math.exp(-0.7)))
    assert judges.biased(even, length=2.0)("x", LONG, SHORT) == pytest.approx(1 / (1 + math.exp(-2 * math.tanh(1.0))))
    assert judges.biased(lambda *_: 1.0, noise=0.2)("x", LONG, SHORT) == pytest.approx(0.9, abs=1e-5)
    assert judges.biased(even, style=lambda y: "please" in y)("x", "please", "no") == pytest.approx(1 / (1 + math.exp(-1)))


def test_swapped_order_cancels_a_planted_position_bias():
    judge = judges.both_orders(judges.biased(even, position=2.0))
    assert judge("x", LONG, SHORT) == pytest.approx(0.5)
    tilted = judges.biased(judges.by_score(lambda prompt, y: float(len(y))), position=2.0)
    fair = judges.both_orders(tilted)
    assert tilted("x", "a", "bb") > 0.5 > fair("x", "a", "bb")
    assert fair("x", "a", "bb") + fair("x", "bb", "a") == pytest.approx(1)


def test_a_drawn_verdict_has_the_judges_probability():
    judge = judges.drawn(lambda *_: 0.3, seed=1)
    assert np.mean([judge("x", "a", "b") for _ in range(4000)]) == pytest.approx(0.3, abs=0.03)


def pairs_with_lengths(n, seed):
    """Answers of random lengths, a's longer on average by five words."""
    rng = np.random.default_rng(seed)
    text = lambda mean: [" ".join(["word"] * k) for k in rng.poisson(mean, n) + 1]
    return text(15), text(10)


@pytest.mark.parametrize("theta", [0.0, 0.8])
def test_length_control_removes_a_planted_length_bias(theta):
    a, b = pairs_with_lengths(4000, 0)
    judge = judges.drawn(judges.biased(lambda *_: judges.logistic(theta), length=2.0), seed=1)
    verdicts = judges.compare(judge, ["x"] * len(a), a, b)
    controlled = judges.length_controlled(verdicts, a, b, scale=10.0)
    assert evaluate.bootstrap(verdicts).mean > judges.logistic(theta) + 0.08
    assert controlled.mean == pytest.approx(judges.logistic(theta), abs=0.03)
    assert judges.length_controlled(verdicts, a, b).mean == pytest.approx(judges.logistic(theta), abs=0.05)  # the default scale


def test_intervals_cover_the_truth_about_95_times_in_100():
    covered, (a, b) = {"rate": 0, "controlled": 0}, pairs_with_lengths(100_000, 10_000)
    truth = judges.compare(judges.biased(lambda *_: judges.logistic(0.8), length=1.0), ["x"] * len(a), a, b).mean()  # of the population
    for trial in range(200):
        a, b = pairs_with_lengths(200, trial)
        judge = judges.drawn(judges.biased(lambda *_: judges.logistic(0.8), length=1.0), seed=trial)
        verdicts = judges.compare(judge, ["x"] * 200, a, b)
        plain, controlled = evaluate.bootstrap(verdicts, 400, trial), judges.length_controlled(verdicts, a, b, 10.0, 100, trial)
        covered["rate"] += plain.low <= truth <= plain.high
        covered["controlled"] += controlled.low <= judges.logistic(0.8) <= controlled.high
    assert all(0.90 < count / 200 < 0.985 for count in covered.values()), covered


def test_length_control_without_a_difference_in_length_is_the_win_rate():
    verdicts = np.array([1.0] * 30 + [0.0] * 10)
    assert judges.length_controlled(verdicts, [SHORT] * 40, [SHORT] * 40).mean == pytest.approx(0.75, abs=1e-3)


def test_length_control_refuses_what_it_cannot_tell_apart():
    with pytest.raises(ValueError, match="cannot be told apart"):
        judges.length_controlled(np.array([1.0, 0.9] * 20), [LONG] * 40, [SHORT] * 40)


def test_a_win_rate_where_all_agree_stays_finite():
    interval = judges.length_controlled(np.ones(20), [LONG, SHORT] * 10, [SHORT, LONG] * 10)
    assert 0.9 < interval.mean <= 1


def test_ratings_recover_the_truth_and_ignore_the_scale_of_counts():
    true = np.array([1.2, 0.1, -0.3, -1.0])
    wins = 50 / (1 + np.exp(true[None, :] - true[:, None]))
    np.fill_diagonal(wins, 0)
    np.testing.assert_allclose(judges.ratings(wins), true, atol=1e-4)
    np.testing.assert_allclose(judges.ratings(7 * wins), true, atol=1e-4)


def test_ratings_of_a_model_that_never_lost_are_refused():
    with pytest.raises(ValueError, match="never lost"):
        judges.ratings([[0, 3, 2], [0, 0, 1], [0, 1, 0]])


@pytest.mark.parametrize("reply, verdict", [("1", 1.0), (" 2.", 0.0), ("tie", 0.5), ("Answer: 1", 1.0), ("I prefer 2", 0.0), ("1 or 2", None), ("", None),
                                            ("A good answer is hard to find", None), ("(1)", 1.0), ("neither", None), ("1 is right", 1.0), ("It is 12", None)])
def test_verdicts_are_read_and_no_place_is_easier_to_read_than_the_other(reply, verdict):
    assert judges.read_verdict(reply) == verdict
    other = judges.read_verdict(reply.translate(str.maketrans("12", "21")))
    assert other == (None if verdict is None else 1 - verdict)


def test_an_llm_judge_counts_what_it_could_not_read():
    replies = iter(["1", "no idea", "2"])
    judge = judges.llm_judge(lambda text: next(replies))
    assert list(judges.compare(judge, ["x"] * 3, ["a"] * 3, ["b"] * 3)) == [1.0, 0.5, 0.0]
    assert (judge.asked, judge.unread) == (3, 1)


def test_the_question_shows_the_answers_in_the_order_given():
    seen = []
    judges.llm_judge(lambda text: seen.append(text) or "1")("the request", "the first", "the second")
    (text,) = seen
    assert text.index("the request") < text.index("the first") < text.index("the second")


def test_a_local_model_can_be_asked(model, tokenizer):
    chat = judges.local_chat(model, tokenizer, max_new_tokens=4)
    assert isinstance(chat("A or B?"), str) and chat("A or B?") == chat("A or B?")


def test_a_local_model_can_be_held_to_choices(model, tokenizer):
    from lab.evaluate import response_logprobs
    chat = judges.local_chat(model, tokenizer, choices=judges.VERDICTS)
    for text in ("Which one?", "Which of the two is better?"):
        logps = response_logprobs(model, tokenizer, [text] * 3, list(judges.VERDICTS))
        assert chat(text) == list(judges.VERDICTS)[logps.argmax()]
    judge = judges.llm_judge(chat)
    judge("x", "a", "b")
    assert judge.unread == 0


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server():
    """A small server on this machine; `replies` is what it answers in turn: a status with a body, and `seen` what it was asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.server.seen.append((self.path, self.headers.get("Authorization"), body))
            status, reply = self.server.replies.pop(0)
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "0.01")
            self.end_headers()
            self.wfile.write(reply.encode())

        def log_message(self, *_):
            pass

    running = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    running.seen, running.replies = [], []
    running.address = f"http://127.0.0.1:{running.server_port}/v1"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.shutdown()
    thread.join()
    running.server_close()


def said(text):
    return 200, json.dumps({"choices": [{"message": {"content": text}}]})


def test_a_server_is_asked_in_its_own_format(server):
    server.replies += [said("2")]
    judge = judges.llm_judge(judges.openai_chat(server.address, "some-model", key="k"))
    assert judge("x", "a", "b") == 0.0
    path, key, body = server.seen[0]
    assert path == "/v1/chat/completions" and key == "Bearer k"
    assert body["model"] == "some-model" and body["temperature"] == 0 and body["messages"][0]["role"] == "user"


def test_too_many_requests_are_tried_again(server):
    server.replies += [(429, ""), (429, ""), said("A")]
    assert judges.openai_chat(server.address, "m", pause=0.01)("x") == "A"
    assert len(server.seen) == 3


def test_patience_ends(server):
    server.replies += [(429, "")] * 3
    with pytest.raises(JudgeError, match="answered 429"):
        judges.openai_chat(server.address, "m", retries=2, pause=0.01)("x")


@pytest.mark.parametrize("status, body, message", [(404, "", "answered 404"), (401, "", "answered 401"), (200, "<html>", "format"), (200, "{}", "format"), (200, '{"choices": []}', "format")])
def test_a_wrong_answer_is_one_clear_sentence_without_the_key(server, status, body, message):
    server.replies += [(status, body)]
    with pytest.raises(JudgeError, match=message) as error:
        judges.openai_chat(server.address, "m", key="secret")("x")
    assert "secret" not in str(error.value) and len(server.seen) == 1


def test_an_address_that_does_not_answer_is_one_clear_sentence():
    with pytest.raises(JudgeError, match="is a server running"):
        judges.openai_chat("http://127.0.0.1:9/v1", "m", timeout=1)("x")
    with pytest.raises(JudgeError, match="is a server running"):
        judges.openai_chat("nowhere", "m", timeout=1)("x")
