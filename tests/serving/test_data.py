"""The viewer's routes over a real run's files: what they give, and what they give nobody."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from insightv import corrections
from insightv.serving.api import create_viewer
from tests.serving.conftest import SECRET, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "mine")


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    with TestClient(create_viewer(run), base_url="http://localhost") as found:
        yield found


def test_pages_follow_each_other_and_a_selection_is_exported(client: TestClient) -> None:
    first = client.get("/data/chains", params={"sort": "score"}).json()
    after = ",".join("" if value is None else str(value) for value in first["next"])
    second = client.get("/data/chains", params={"sort": "score", "after": after}).json()
    assert (first["total"], len(first["rows"]), len(second["rows"]), second["next"]) == (60, 50, 10, None)
    assert len({row["id"] for row in first["rows"] + second["rows"]}) == 60
    exported = client.get("/data/export", params={"verdict": "right", "low": 52})
    assert exported.headers["content-disposition"].startswith("attachment")
    assert [json.loads(line)["score"]["value"] for line in exported.text.splitlines()] == [52] * 20


def test_a_problem_and_its_picture(client: TestClient) -> None:
    found = client.get(f"/data/problems/{3:032x}").json()
    assert [row["verdict"] for row in found["chains"]] == ["right", "wrong", "right"]
    picture = client.get(f"/data/images/{found['problem']['images'][0]}")
    assert picture.headers["content-type"] == "image/png" and picture.content.startswith(b"\x89PNG")


def test_figures(client: TestClient) -> None:
    facets = client.get("/data/facets").json()
    assert facets["run"] == "mine" and facets["stages"]["generate"]["verdict"] == {"right": 40, "wrong": 20}
    plots = client.get("/data/plots", params={"stage": "generate"}).json()
    assert plots["scores"] == [[50, 40, 0]] and plots["rounds"] == {"dpo1": [{"step": 1, "loss": 0.7, "margin": 0.1}]}


@pytest.mark.parametrize(
    "path",
    [
        "/data/images/secret.png",
        "/data/images/../secret.png",
        "/data/images/%2e%2e%2fsecret.png",
        "/data/images/..%5csecret.png",
        "/data/../config.yaml",
        "/pages/../api.py",
        "/pages/%2e%2e/api.py",
        "/pages/data.html",
        "/data/problems/..%2f..%2fconfig.yaml",
        "/data/images/" + "0" * 32,
    ],
)
def test_no_path_of_a_request_reaches_the_disk(client: TestClient, path: str) -> None:
    answered = client.get(path)
    assert answered.status_code == 404 and SECRET not in answered.text


def test_an_image_of_the_store_that_is_no_problems_is_not_given(client: TestClient, run: Path) -> None:
    digests = {path.stem for path in (run / "images").glob("*/*.png")}
    given = {name for name in digests if client.get(f"/data/images/{name}").status_code == 200}
    assert len(digests - given) == 1 and len(given) == 20


@pytest.mark.parametrize(
    "query",
    ["sort=n", "low=x", "after=1", "after=1,2,3", "after=-1,2", "stage=a&stage=b&x=1", "words=" + "a" * 300, "verdict=maybe", "after=99999999999999999999,1"],
)
def test_a_query_that_is_none_is_a_400(client: TestClient, query: str) -> None:
    assert client.get(f"/data/chains?{query}").status_code == 400


def test_words_are_words_and_no_syntax(client: TestClient) -> None:
    for words in ("OR", "a*", "NEAR(a b)", "text:red", "-red", "'; DROP TABLE chains; --", "\x00red", "red\x00"):
        assert client.get("/data/chains", params={"words": words}).status_code == 200
    # Signs alone would be found everywhere.
    for words in ('"', "%", "+ =", "\x00"):
        assert client.get("/data/chains", params={"words": words}).status_code == 400
    assert client.get("/data/chains", params={"words": "which"}).json()["total"] == 60


@pytest.mark.parametrize("sort", ["order", "score", "score-up", "words"])
def test_a_link_to_a_chain_begins_with_it(client: TestClient, sort: str) -> None:
    first = client.get("/data/chains", params={"sort": sort}).json()
    rest = client.get("/data/chains", params={"sort": sort, "after": ",".join("" if one is None else str(one) for one in first["next"])}).json()
    known = [row["id"] for row in first["rows"] + rest["rows"]]
    for at in (0, 30, 55):
        begun = client.get("/data/chains", params={"sort": sort, "at": known[at]}).json()
        assert [row["id"] for row in begun["rows"]] == known[at : at + 50] and begun["total"] == first["total"]


def test_a_run_that_changed_is_shown_as_it_is(run: Path, tmp_path: Path) -> None:
    """A stage made anew from the same inputs, as `--retry-failed` does, while the run is shown."""
    copied = shutil.copytree(run, tmp_path / "run")
    with TestClient(create_viewer(copied), base_url="http://localhost") as viewer:
        before = viewer.get("/data/facets").json()
        verdicts = [json.loads(line) | {"correct": None} for line in (copied / "assess" / "verdicts.jsonl").open()]
        (copied / "assess" / "verdicts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in verdicts))
        (copied / "assess" / "manifest.json").write_text('{"hash": "same", "outputs": {"verdicts.jsonl": "other"}}')
        after = viewer.get("/data/facets").json()
        assert not after["refreshing"] and before["stages"]["generate"]["verdict"] != after["stages"]["generate"]["verdict"]
        assert after["stages"]["generate"]["verdict"] == {"open": 60}
        (copied / "assess" / "verdicts.jsonl").write_text("{")
        (copied / "assess" / "manifest.json").write_text('{"hash": "same", "outputs": {"verdicts.jsonl": "third"}}')
        assert viewer.get("/data/facets").json()["stages"] == after["stages"]


def test_a_picture_that_is_gone_is_not_found(run: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("images"))
    with TestClient(create_viewer(copied), base_url="http://localhost") as viewer:
        [digest] = viewer.get(f"/data/problems/{5:032x}").json()["problem"]["images"]
        assert viewer.get(f"/data/images/{digest}").status_code == 404


def test_statics_know_no_ranges(client: TestClient) -> None:
    """CVE-2025-62727: a header of many ranges took minutes; ours are given whole."""
    answered = client.get("/pages/data.js", headers={"Range": "bytes=" + ",".join(f"{at}-" for at in range(1000))})
    assert answered.status_code == 200 and "accept-ranges" not in answered.headers


def test_the_viewer_asks_for_the_key_too(run: Path) -> None:
    with TestClient(create_viewer(run, "a key"), base_url="http://localhost") as closed:
        for path in ("/", "/data", "/data/facets", "/data/chains", "/pages/data.js", "/health"):
            assert closed.get(path).status_code == 401
            assert closed.get(path, headers={"Authorization": "Bearer a key"}).status_code == 200


def test_a_chain_is_corrected_by_hand_and_shown_so(client: TestClient, run: Path) -> None:
    chain, problem = f"{5:016x}{0:016x}", f"{5:032x}"
    given = {"chain_id": chain, "problem_id": problem, "correct": False, "note": "it is blue"}
    assert client.post("/data/corrections", json=given).status_code == 200
    assert client.get(f"/data/problems/{problem}").json()["hand"][chain]["note"] == "it is blue"
    assert corrections.read(run)[chain].correct is False
    [row] = client.get("/data/chains", params={"hand": "any"}).json()["rows"]
    assert row["id"] == chain and row["hand"]["note"] == "it is blue"
    [exported] = [json.loads(line) for line in client.get("/data/export", params={"hand": "any"}).text.splitlines()]
    assert (exported["chain"]["id"], exported["problem"]["id"], exported["hand"]["correct"]) == (chain, problem, False)
    for wrong in ({"chain_id": "x"}, {"problem_id": f"{6:032x}"}, {"note": "x" * 3000}, {"by": "me"}, {"correct": "maybe"}):
        assert client.post("/data/corrections", json=given | wrong).status_code in (400, 404)
    assert client.post("/data/corrections", json=given, headers={"Origin": "https://evil.example"}).status_code == 403
    assert client.post("/data/corrections", json={"chain_id": chain, "problem_id": problem, "flagged": True}).json()["correct"] is False
    assert client.get(f"/data/problems/{problem}").json()["hand"][chain]["flagged"]
    taken_back = {"chain_id": chain, "problem_id": problem, "flagged": False, "correct": None}
    assert client.post("/data/corrections", json=taken_back).status_code == 200
    assert client.get(f"/data/problems/{problem}").json()["hand"] == {}
    assert len((run / corrections.FILE).read_text().splitlines()) == 3
