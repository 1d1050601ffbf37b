"""The playground in a real browser, against the whole service."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from axe_core_python.selenium import Axe
from PIL import Image
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

from cli.stack import Stack
from jobs.keys import KeysFile
from jobs.spec import MAX_SEED
from support.halting import halted
from support.waiting import wait_until

PROMPT = "a red heart on blue"


def by_id(browser: Chrome, name: str) -> WebElement:
    return browser.find_element(By.ID, name)


def fill(browser: Chrome, **fields: object) -> None:
    for name, value in fields.items():
        field = by_id(browser, name)
        field.clear()
        field.send_keys(str(value))


def state(browser: Chrome) -> str:
    return by_id(browser, "state").text


def picture_is_visible(browser: Chrome) -> bool:
    script = "const i = document.querySelector('#pictures img'); return Boolean(i && i.complete && i.naturalWidth);"
    return bool(browser.execute_script(script))


def steps_are_shown(browser: Chrome) -> bool:
    """Whether the state and the bar tell some progress, both at one moment."""
    script = "const find = id => document.getElementById(id); return [find('state').innerText, find('bar').value];"
    told, bar = browser.execute_script(script)
    return bool(told.startswith("Drawing, step") and bar > 0)


def entries(browser: Chrome) -> int:
    """How many jobs the history shows."""
    return len(browser.find_elements(By.CSS_SELECTOR, "#entries li"))


def position(browser: Chrome) -> int:
    """The shown place in the queue; 0 where none is shown."""
    found = re.match(r"Queued, position (\d+)", state(browser))
    return int(found[1]) if found else 0


def draw(browser: Chrome, **fields: object) -> None:
    fill(browser, **fields)
    by_id(browser, "draw").click()


def drawn(browser: Chrome, **fields: object) -> None:
    draw(browser, **fields)
    wait_until(lambda: str(fields["prompt"]) in by_id(browser, "facts").text)  # not the picture before
    wait_until(lambda: state(browser) == "Succeeded" and picture_is_visible(browser))


@pytest.fixture
def page(browser: Chrome, stack: Stack) -> Chrome:
    browser.get(stack.api_url)
    return browser


def test_a_picture_is_drawn_shown_and_downloaded(page: Chrome, tmp_path: Path) -> None:
    draw(page, prompt=PROMPT, width=256, height=256, seed=7, steps=50)
    wait_until(lambda: steps_are_shown(page))
    wait_until(lambda: state(page) == "Succeeded" and picture_is_visible(page))
    facts = by_id(page, "facts").text
    assert PROMPT in facts
    assert "256 × 256" in facts
    page.find_element(By.LINK_TEXT, "Download").click()
    file = wait_until(lambda: list(tmp_path.glob("job_*.png")))[0]
    assert Image.open(io.BytesIO(file.read_bytes())).size == (256, 256)


def test_it_works_below_a_path_of_a_proxy_s(browser: Chrome, stack: Stack) -> None:
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": {"X-Forwarded-Prefix": "/zimage"}})
    browser.get(f"{stack.api_url}/zimage")
    drawn(browser, prompt=PROMPT, width=128, height=128)
    assert browser.execute_script("return asCurl()").startswith(f"curl -s {stack.api_url}/zimage/v1/jobs ")
    assert f'base_url="{stack.api_url}/zimage"' in browser.execute_script("return asPython()")
    browser.find_element(By.LINK_TEXT, "API").click()
    wait_until(lambda: "/v1/images/generations" in browser.find_element(By.TAG_NAME, "body").text)
    assert browser.current_url == f"{stack.api_url}/zimage/docs"


def test_the_place_in_the_queue_falls_with_the_jobs_in_front(page: Chrome, stack: Stack) -> None:
    long = {"prompt": "in front", "width": 512, "height": 512, "num_inference_steps": 50, "num_images": 8}
    with httpx.Client(base_url=stack.api_url) as api:
        front = [api.post("/v1/jobs", json=long).raise_for_status().json()["id"] for _ in range(4)]
        try:
            draw(page, prompt=PROMPT, width=128, height=128)
            first = wait_until(lambda: position(page))
            assert first >= len(front) - 1  # one of them may run
            api.post(f"/v1/jobs/{front[2]}/cancel").raise_for_status()
            wait_until(lambda: 0 < position(page) < first, seconds=10)
        finally:
            for job in front:
                api.post(f"/v1/jobs/{job}/cancel")
    wait_until(lambda: state(page) == "Succeeded" and picture_is_visible(page))


def test_a_job_is_canceled(page: Chrome, stack: Stack) -> None:
    def in_history() -> object:
        return page.execute_script("return document.querySelector('#entries em')?.innerText")

    draw(page, prompt="a long job", width=512, height=512, steps=50)
    wait_until(lambda: steps_are_shown(page))
    assert in_history() == "running"
    with halted(stack.pids()["workers"]):
        by_id(page, "cancel").click()
        wait_until(lambda: state(page) == "Canceling")
        assert in_history() == "canceling"
        assert not by_id(page, "cancel").is_displayed()
        page.refresh()
        wait_until(lambda: state(page) == "Canceling" and in_history() == "canceling")
    wait_until(lambda: state(page) == "Canceled")
    assert in_history() == "canceled"
    assert not by_id(page, "bar").is_displayed()


def test_canceling_by_keyboard_keeps_the_focus_there(page: Chrome) -> None:
    draw(page, prompt="a long job", width=512, height=512, steps=50, number=8)
    wait_until(lambda: by_id(page, "cancel").is_displayed())
    by_id(page, "cancel").send_keys(Keys.ENTER)
    wait_until(lambda: state(page) == "Canceled")
    assert page.switch_to.active_element.text == "Canceled"


def test_a_reader_is_told_of_each_state_but_not_of_each_step(page: Chrome) -> None:
    page.execute_script("""
        window.told = [];
        for (const region of document.querySelectorAll("#result ~ [role=status], #result ~ * [role=status]"))
            new MutationObserver(() => region.textContent && told.push(region.textContent))
                .observe(region, {childList: true, characterData: true, subtree: true});
    """)
    drawn(page, prompt=PROMPT, width=256, height=256, steps=50)
    told = page.execute_script("return told")
    assert told[-2:] == ["Drawing", "Succeeded"]
    assert told[:-2] in ([], ["Queued"])


def test_what_is_asked_too_often_is_asked_again(page: Chrome) -> None:
    page.execute_script("""
        const ask = window.fetch, refused = new Set();
        window.fetch = (url, options) => {
            if (options?.method !== "GET" || refused.has(url)) return ask(url, options);
            refused.add(url);
            return Promise.resolve(new Response("{}", {status: 429, headers: {"Retry-After": "1"}}));
        };
    """)
    draw(page, prompt=PROMPT, width=128, height=128)
    wait_until(lambda: state(page) == "Succeeded" and picture_is_visible(page))
    assert by_id(page, "error").text == ""


def test_a_following_that_fails_leaves_nothing_that_seems_to_go_on(page: Chrome) -> None:
    page.execute_script("""
        const real = fetch, problem = JSON.stringify({detail: "gone, says the test"});
        window.fetch = (url, options) =>
            url.endsWith("/events") ? Promise.resolve(new Response(problem, {status: 410})) : real(url, options);
    """)
    draw(page, prompt=PROMPT, width=128, height=128)
    wait_until(lambda: state(page) == "No longer followed")
    assert by_id(page, "error").text == "gone, says the test"
    assert not by_id(page, "cancel").is_displayed()
    assert not by_id(page, "bar").is_displayed()


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_job_is_followed_through_a_restart_behind_a_proxy(page: Chrome, status: int) -> None:
    page.execute_script(
        """
        const real = fetch, status = arguments[0];
        let asked = 0;
        window.fetch = (url, options) => url.endsWith("/events") && asked++ < 2
            ? Promise.resolve(new Response("<html>Sorry</html>", {status})) : real(url, options);
        """,
        status,
    )
    drawn(page, prompt=PROMPT, width=128, height=128)
    assert by_id(page, "error").text == ""


@pytest.mark.parametrize("key", ["zimage_schlüssel", "zimage_€"])
def test_a_key_that_no_header_takes_is_told(page: Chrome, key: str) -> None:
    page.execute_script("document.getElementById('key-field').hidden = false")
    draw(page, key=key, prompt=PROMPT)
    wait_until(lambda: by_id(page, "error").text == "The API key has characters that no key has: enter it again.")


def test_a_picture_that_went_is_told_and_not_saved(page: Chrome, stack: Stack, tmp_path: Path) -> None:
    drawn(page, prompt=PROMPT, width=128, height=128)
    entry = wait_until(lambda: page.find_elements(By.CSS_SELECTOR, "#entries li:first-child img"))[0]
    job = httpx.get(f"{stack.api_url}/v1/jobs").json()["jobs"][0]["id"]
    httpx.delete(f"{stack.api_url}/v1/jobs/{job}").raise_for_status()
    page.find_element(By.LINK_TEXT, "Download").click()
    wait_until(lambda: "The storage answered 404" in by_id(page, "error").text)
    assert list(tmp_path.iterdir()) == []
    entry.click()  # asks again instead of showing what the list once said
    wait_until(lambda: "deleted" in by_id(page, "error").text)


def test_the_copied_python_draws_the_same_picture(page: Chrome, tmp_path: Path) -> None:
    drawn(page, prompt='it\'s a "star"', width=128, height=128, seed=5)
    page.execute_cdp_cmd("Browser.grantPermissions", {"permissions": ["clipboardReadWrite"]})
    by_id(page, "python").click()
    wait_until(lambda: by_id(page, "copied").text == "Copied.")
    script = page.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert 'job["urls"]' not in script  # behind a proxy that is not trusted these are http://, and the key goes along
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=90)
    shown = httpx.get(page.find_element(By.CSS_SELECTOR, "#pictures img").get_attribute("src") or "")
    with Image.open(next(tmp_path.glob("job_*.png"))) as made, Image.open(io.BytesIO(shown.content)) as before:
        assert made.tobytes() == before.tobytes()


def test_a_step_cache_is_chosen_reused_and_copied(page: Chrome, stack: Stack, tmp_path: Path) -> None:
    Select(by_id(page, "cache")).select_by_visible_text("fast")
    drawn(page, prompt=PROMPT, width=128, height=128, seed=5)
    assert "layers skipped in" in by_id(page, "pictures").text
    mask = {"prompt": PROMPT, "step_cache": {"mask": "11101001", "protect_last": True}}
    job = httpx.post(f"{stack.api_url}/v1/jobs", json=mask).raise_for_status().json()
    page.execute_script("keep([arguments[0], ...history()])", job["id"])
    page.refresh()
    wait_until(lambda: "11101001" in by_id(page, "facts").text and picture_is_visible(page))
    by_id(page, "reuse").click()
    chosen = by_id(page, "cache").get_property("value")
    assert json.loads(str(chosen)) == job["input"]["step_cache"]
    assert json.dumps(job["input"]["step_cache"], separators=(",", ":")) in page.execute_script("return asCurl()")
    script = page.execute_script("return asPython()")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=90)
    assert len(list(tmp_path.glob("job_*.png"))) == 1


def test_what_the_service_refuses_is_told(page: Chrome) -> None:
    # The browser's own checks are for those who type; the service has the last word.
    page.execute_script("document.getElementById('form').noValidate = true")
    draw(page, prompt=PROMPT, width=100, height=128)
    wait_until(lambda: "16" in by_id(page, "error").text)


def test_a_blank_prompt_is_told_in_words(page: Chrome) -> None:
    draw(page, prompt="  ")
    wait_until(lambda: by_id(page, "error").text == "The prompt is blank: say what to draw.")


def test_the_form_takes_each_seed_that_the_service_draws(page: Chrome) -> None:
    drawn(page, prompt=PROMPT, width=128, height=128, seed=MAX_SEED)
    by_id(page, "reuse").click()
    assert page.execute_script("return document.getElementById('form').checkValidity()")
    assert by_id(page, "seed").get_property("value") == str(MAX_SEED)


def test_a_browser_that_keeps_no_history_is_told_and_draws(page: Chrome) -> None:
    page.execute_script("Storage.prototype.setItem = () => { throw new DOMException('denied', 'SecurityError'); };")
    drawn(page, prompt=PROMPT, width=128, height=128)
    assert "refuses to keep the history" in by_id(page, "history").text
    assert by_id(page, "error").text == ""


def test_a_picture_is_drawn_without_reading_the_whole_history(page: Chrome, stack: Stack) -> None:
    small = {"prompt": "before", "width": 64, "height": 64, "num_inference_steps": 1}
    with httpx.Client(base_url=stack.api_url, timeout=90) as api:
        jobs = [api.post("/v1/jobs", json=small).raise_for_status().json()["id"] for _ in range(5)]
        for job in jobs:
            api.get(f"/v1/jobs/{job}", headers={"Prefer": "wait=60"}).raise_for_status()
    page.execute_script("localStorage.setItem('history', JSON.stringify(arguments[0]))", jobs)
    page.refresh()
    wait_until(lambda: entries(page) == len(jobs))
    page.execute_script("""
        const real = fetch;
        window.asked = [];
        window.fetch = (url, options) => { asked.push(url); return real(url, options); };
    """)
    drawn(page, prompt=PROMPT, width=128, height=128)
    wait_until(lambda: page.find_elements(By.CSS_SELECTOR, "#entries li:first-child img"))
    assert entries(page) == len(jobs) + 1
    asked = page.execute_script("return asked")
    assert not [url for url in asked for job in jobs if job in url]


def test_a_job_that_is_no_longer_followed_ends_in_the_history_too(page: Chrome) -> None:
    draw(page, prompt="the first", width=256, height=256, steps=20)
    wait_until(lambda: "the first" in by_id(page, "facts").text)
    drawn(page, prompt="the second", width=128, height=128, steps=8)
    wait_until(lambda: len(page.find_elements(By.CSS_SELECTOR, "#entries img")) == 2)


def test_a_service_that_is_away_is_told(page: Chrome) -> None:
    page.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    page.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    draw(page, prompt=PROMPT)
    wait_until(lambda: by_id(page, "error").text == "The service can't be reached.")


def test_a_reload_keeps_the_history_and_settings_are_reused(page: Chrome) -> None:
    drawn(page, prompt=PROMPT, width=96, height=128, seed=11)
    drawn(page, prompt="a star", width=128, height=128, seed=12)
    page.refresh()
    wait_until(lambda: entries(page) == 2)
    wait_until(lambda: picture_is_visible(page))  # the last one is on display again
    page.find_elements(By.CSS_SELECTOR, "#entries button")[1].click()
    wait_until(lambda: PROMPT in by_id(page, "facts").text)
    by_id(page, "reuse").click()
    values = {name: by_id(page, name).get_property("value") for name in ("prompt", "width", "height", "seed")}
    assert values == {"prompt": PROMPT, "width": "96", "height": "128", "seed": "11"}
    assert Select(by_id(page, "preset")).first_selected_option.text == "96 × 128"


def test_it_works_by_keyboard_alone(page: Chrome) -> None:
    by_id(page, "prompt").send_keys(PROMPT, Keys.TAB)
    page.switch_to.active_element.send_keys("96", Keys.TAB)  # picks "96 × 128" by its first letters
    for _ in range(6):
        page.switch_to.active_element.send_keys(Keys.TAB)
    assert page.switch_to.active_element.get_property("id") == "draw"
    page.switch_to.active_element.send_keys(Keys.ENTER)
    wait_until(lambda: state(page) == "Succeeded")
    assert "96 × 128" in by_id(page, "facts").text


def test_choosing_an_entry_clears_the_error(page: Chrome) -> None:
    drawn(page, prompt=PROMPT, width=128, height=128)
    page.execute_script("document.getElementById('form').noValidate = true")
    draw(page, prompt="a star", width=100)
    wait_until(lambda: by_id(page, "error").text)
    page.find_element(By.CSS_SELECTOR, "#entries button").click()
    wait_until(lambda: by_id(page, "error").text == "")
    assert PROMPT in by_id(page, "facts").text


def test_what_is_drawn_comes_into_view_on_a_phone(page: Chrome) -> None:
    metrics = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    draw(page, prompt=PROMPT, width=256, height=256, steps=50)
    wait_until(lambda: steps_are_shown(page))
    for name in ("state", "bar", "cancel"):
        script = "const {top, bottom} = arguments[0].getBoundingClientRect(); return top >= 0 && bottom <= innerHeight"
        assert page.execute_script(script, by_id(page, name)), name


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_nothing_keeps_people_out(page: Chrome, scheme: str, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    drawn(page, prompt=PROMPT, width=128, height=128)
    violations = Axe().run(page)["violations"]
    assert [found["id"] for found in violations if found["impact"] in ("serious", "critical")] == []
    assert page.execute_script("return document.documentElement.scrollWidth <= innerWidth")


@pytest.fixture
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """A service that wants a key, and two keys."""
    folder = tmp_path_factory.mktemp("guarded")
    alice, bob = (KeysFile(folder / "keys.json").create(name) for name in ("alice", "bob"))
    with Stack(folder / "data", model="tiny", env={"ZIMAGE_API_KEYS_FILE": str(folder / "keys.json")}) as running:
        yield running.api_url, alice, bob


def test_a_key_is_asked_for_and_used(browser: Chrome, guarded: tuple[str, str, str]) -> None:
    url, key, other = guarded
    browser.get(url)
    wait_until(lambda: by_id(browser, "key").is_displayed())
    draw(browser, prompt=PROMPT)
    wait_until(lambda: "API key" in by_id(browser, "error").text)
    fill(browser, key=key)
    drawn(browser, prompt=PROMPT)
    browser.refresh()
    wait_until(lambda: picture_is_visible(browser))
    assert key not in browser.page_source
    fill(browser, key=other + Keys.TAB)  # another key's jobs are hidden, not forgotten
    wait_until(lambda: by_id(browser, "none").is_displayed())
    assert entries(browser) == 0
    assert state(browser) == "Nothing drawn yet."
    shown = browser.find_element(By.CSS_SELECTOR, "[aria-labelledby=result]")
    assert PROMPT not in shown.text
    assert shown.find_elements(By.CSS_SELECTOR, "img, a") == []
    assert not by_id(browser, "python").is_displayed()
    fill(browser, key=key + Keys.TAB)
    wait_until(lambda: entries(browser) == 1 and picture_is_visible(browser))
    assert not by_id(browser, "none").is_displayed()


def test_it_loads_nothing_from_elsewhere(stack: Stack) -> None:
    answer = httpx.get(stack.api_url)
    assert "http://" not in answer.text
    assert "https://" not in answer.text
    assert "script-src 'sha256-" in answer.headers["content-security-policy"]
