"""The page in Debian's chromium, on a running server: what a person does, and who is hostile."""

import asyncio
import contextlib
import csv
import io
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Error, FilePayload, Page, expect

from keras_cnns_serve import Server, ServerOptions
from keras_cnns_serve.repository.policy import All
from tests.browser import chromium
from tests.serve.conftest import (
    CAM,
    CONFIDENCE,
    LABELS,
    OUTPUTS,
    graph,
    grey,
    publish,
    with_cam,
    write_version,
)

MARKUP = "<img src=x onerror=\"document.title='owned'\">"
FILE_MARKUP = "<img src=y onerror=document.title='owned'> \"$(id)\".png"
TOKEN = "t" * 32
UNTRUSTED = "This document requires 'TrustedHTML' assignment. The action has been blocked."
# What a browser writes to its console for an answer that is an error.
REFUSED = "Failed to load resource: the server responded with a status of "


@contextlib.contextmanager
def served(options: ServerOptions) -> Iterator[str]:
    """A server in another thread, on an event loop of its own; its URL."""
    started: Future[tuple[str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def main() -> None:
        stop = asyncio.Event()
        async with Server(options) as server:
            started.set_result((server.url, asyncio.get_running_loop(), stop))
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            started.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    url, loop, stop = started.result(60)
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """grey/1, grey/2 (refused), grey/3, hostile/1 (a label is markup), nan/1, seen/1 (with cam)."""
    root = tmp_path_factory.mktemp("models")
    write_version(root / "grey" / "1")
    tampered = write_version(root / "grey" / "2") / "labels.txt"
    tampered.write_bytes(tampered.read_bytes().replace(b"grey-0", b"grey-X"))
    write_version(root / "grey" / "3")
    labels = "".join(f"{label}\n" for label in [MARKUP, *LABELS[1:]]).encode()
    publish(root / "hostile" / "1", {"labels.txt": labels})
    write_version(root / "nan" / "1", graph(nan=True))
    write_version(root / "seen" / "1", with_cam(), outputs=[*OUTPUTS, CAM], confidence=CONFIDENCE)
    return root


@pytest.fixture(scope="module")
def url(models: Path) -> Iterator[str]:
    options = ServerOptions(models=models, port=0, grpc_port="off", versions=All(), grace=0)
    with served(options) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    expect.set_options(timeout=20_000)  # milliseconds: other tests may use the cores
    with chromium(*camera) as browser:
        yield browser


@contextlib.contextmanager
def opened(
    browser: Browser, url: str, expected: Sequence[str] = (), **options: Any
) -> Iterator[Page]:
    """The page; at the end, it must have asked only its server, and logged only these errors."""
    origin = url.rstrip("/")
    with browser.new_context(**options) as context:
        page = context.new_page()
        page.set_default_timeout(20_000)
        errors: list[str] = []
        requested: list[str] = []

        def note(message: ConsoleMessage) -> None:
            if message.type == "error" and not message.text.startswith(REFUSED):
                errors.append(message.text)

        page.on("console", note)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(url)
        yield page
        assert errors == [*expected]
        elsewhere = [each for each in requested if not each.startswith((origin, f"blob:{origin}"))]
        assert not elsewhere


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url) as page:
        expect(page.locator("#model option")).to_have_count(4)
        yield page


def image(level: int = 130, name: str = "image.png") -> FilePayload:
    return {"name": name, "mimeType": "image/png", "buffer": grey(level)}


def choose(page: Page, *files: FilePayload) -> None:
    page.set_input_files("#files", list(files))


def expect_best(page: Page, label: str) -> None:
    expect(page.locator("#bars .name").first).to_have_text(label)


def transfer(page: Page, level: int, name: str) -> Any:
    """A DataTransfer with an image, as it comes from another program."""
    return page.evaluate_handle(
        """([bytes, name]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
            return transfer;
        }""",
        [list(grey(level)), name],
    )


def test_a_chosen_image_gets_labels_times_and_code(page: Page, tmp_path: Path) -> None:
    choose(page, image(130, 'it\'s "$(id)" & grey.png'))
    expect_best(page, "grey-5")
    expect(page.locator("#bars li")).to_have_count(5)
    expect(page.locator("#bars .value").first).to_have_text(re.compile(r"^\d\d\.\d %$"))
    widths = page.locator("#bars .bar span").evaluate_all(
        "bars => bars.map((bar) => parseFloat(bar.style.width))"
    )
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 40
    expect(page.locator("#times dt")).to_have_text(
        ["Queue", "Decoding", "Inference", "Network and other"]
    )
    for time in page.locator("#times dd").all_inner_texts():
        assert re.fullmatch(r"\d+(\.\d+)? ms", time)
    expect(page.locator("#announcement")).to_contain_text("grey.png: grey-5, ")
    expect(page.locator("#images")).to_be_hidden()
    expect(page.locator("#opacity-line")).to_be_hidden()  # the model has no activation map

    page.select_option("#top-k", "3")
    expect(page.locator("#bars li")).to_have_count(3)
    (tmp_path / 'it\'s "$(id)" & grey.png').write_bytes(grey(130))
    for code, program in (("curl", ["bash", "-c"]), ("python", [sys.executable, "-c"])):
        text = page.locator(f"#{code}").inner_text()
        run = [*program, text.replace("curl ", "curl --silent --show-error ", 1)]
        done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=20)
        assert done.returncode == 0, done.stderr
        assert re.findall(r"grey-\d", done.stdout)[0] == "grey-5"
        assert len(re.findall(r"grey-\d", done.stdout)) == 3


def test_an_image_is_dropped_pasted_or_photographed(browser: Browser, url: str) -> None:
    permissions = ["clipboard-read", "clipboard-write", "camera"]
    with opened(browser, url, permissions=permissions) as page:
        expect(page.locator("#stage")).to_be_visible()  # the models are listed
        page.dispatch_event("#stage", "drop", {"dataTransfer": transfer(page, 40, "dropped.png")})
        expect_best(page, "grey-1")
        page.evaluate(
            """(bytes) => navigator.clipboard.write([new ClipboardItem({
                "image/png": new Blob([new Uint8Array(bytes)], { type: "image/png" }) })])""",
            list(grey(240)),
        )
        page.keyboard.press("Control+V")
        expect_best(page, "grey-9")
        page.click("#camera")
        expect(page.locator("#camera-dialog")).to_be_visible()
        page.click("#shoot")
        expect(page.locator("#caption")).to_have_text("photo.jpg")
        expect(page.locator("#camera-dialog")).to_be_hidden()
        expect(page.locator("#progress")).to_have_text("3 of 3")
        page.click("#copy-curl")
        expect(page.locator("#copy-curl")).to_have_text("Copied")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith("curl --data-binary '@photo.jpg'")


def test_several_images_are_a_table_and_a_csv_file(page: Page) -> None:
    damaged: FilePayload = {"name": "a.png", "mimeType": "image/png", "buffer": b"no image"}
    choose(page, image(20, "black.png"), damaged, image(250, '=1+"2",3.png'))
    expect(page.locator("#progress")).to_have_text("3 of 3, 1 failed")
    rows = page.locator("#rows tr")
    expect(rows.nth(0)).to_contain_text("grey-0")
    expect(rows.nth(1)).to_contain_text("these 8 bytes are not an image")
    expect(rows.nth(2)).to_contain_text("grey-9")
    page.click("#rows tr:nth-child(2) button")
    expect(page.locator("#failure")).to_contain_text("these 8 bytes are not an image")
    expect(page.locator("#prediction")).to_be_hidden()
    with page.expect_download() as download:
        page.click("#csv")
    assert download.value.suggested_filename == "grey-predictions.csv"
    text = download.value.path().read_bytes().decode()
    assert text.count("\r\n") == 4
    black, wrong, white = list(csv.DictReader(io.StringIO(text)))
    assert (black["file"], black["label"], black["error"]) == ("black.png", "grey-0", "")
    assert 0.5 < float(black["probability"]) < 1
    assert float(black["probability_2"]) > float(black["probability_5"])
    assert float(black["inference_ms"]) > 0
    assert (wrong["file"], wrong["label"], wrong["queue_ms"]) == ("a.png", "", "")
    assert wrong["error"].startswith("these 8 bytes")
    assert (white["file"], white["label"]) == ('\'=1+"2",3.png', "grey-9")  # no formula
    page.click("#clear")
    expect(rows).to_have_count(0)
    expect(page.locator("#empty")).to_be_visible()


def test_another_model_or_version_answers_again(page: Page) -> None:
    choose(page, image())
    expect_best(page, "grey-5")
    expect(page.locator("#version option")).to_have_text(["newest (3)", "3", "1"])
    page.select_option("#version", "1")
    expect(page.locator("#curl")).to_contain_text("/v1/models/grey/versions/1:classify-image")
    with page.expect_request("**/v1/models/hostile:classify-image?top_k=5"):
        page.select_option("#model", "hostile")
    expect(page.locator("#version option")).to_have_text(["newest (1)", "1"])
    expect_best(page, "grey-5")
    choose(page, image(0))
    expect_best(page, MARKUP)
    page.select_option("#model", "nan")  # whose probabilities of a black image are NaN
    expect(page.locator("#failure")).to_contain_text("probabilities are not numbers")
    expect(page.locator("#progress")).to_have_text("2 of 2, 1 failed")


def test_below_a_chosen_threshold_an_image_is_unknown(page: Page, tmp_path: Path) -> None:
    expect(page.locator("#threshold-line")).to_be_hidden()  # the model has no thresholds
    page.select_option("#model", "seen")
    expect(page.locator("#threshold option")).to_have_text(
        [
            "none: always answer",
            "0.5 (80.0 % answered, 95.1 % correct)",
            "0.7 (60.0 % answered, 98.3 % correct)",
            "0.9 (0.0 % answered)",
        ]
    )
    choose(page, image(130, "unsure.png"), image(0, "sure.png"))
    expect_best(page, "grey-5")
    expect(page.locator("#unknown")).to_be_hidden()
    page.select_option("#threshold", "0.7")
    expect(page.locator("#unknown")).to_contain_text("Unknown")
    expect_best(page, "grey-5")  # the labels with their probabilities are still there
    expect(page.locator("#announcement")).to_have_text("unsure.png: unknown")
    label = page.locator("#rows td:nth-child(2)")
    expect(label).to_have_text(["unknown", "grey-0"])
    expect(label.first).to_have_css("font-style", "italic")
    expect(page.locator("#curl")).to_contain_text("top_k=5&min_probability=0.7")
    (tmp_path / "unsure.png").write_bytes(grey(130))
    code = page.locator("#python").inner_text()
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert done.stdout.startswith("unknown\n0.4722  grey-5"), done.stderr
    with page.expect_download() as download:
        page.click("#csv")
    unsure, sure = csv.DictReader(io.StringIO(download.value.path().read_text()))
    assert (unsure["label"], unsure["label_2"], unsure["unknown"]) == ("", "grey-4", "true")
    assert (sure["label"], sure["unknown"]) == ("grey-0", "false")
    page.click("#rows tr:nth-child(2) button")
    expect(page.locator("#unknown")).to_be_hidden()
    page.select_option("#model", "grey")
    expect(page.locator("#threshold-line")).to_be_hidden()
    expect(label).to_have_text(["grey-5", "grey-0"])


def test_the_activation_map_has_an_opacity(page: Page) -> None:
    page.select_option("#model", "seen")
    choose(page, image())
    heat = page.locator("#heat")
    expect(heat).to_be_visible()
    expect(heat).to_have_css("opacity", "0.5")
    page.locator("#opacity").focus()
    for key, opacity in (("End", 1), ("ArrowLeft", 0.99), ("Home", 0)):
        page.keyboard.press(key)
        expect(heat).to_have_css("opacity", str(opacity))
        expect(page.locator("#opacity-value")).to_have_text(f"{opacity:.0%}".replace("%", " %"))
    sizes = page.locator("#stage img").evaluate_all("all => all.map((one) => one.naturalWidth)")
    assert sizes == [8, 8]  # the pixels that the model gets, and the map over them
    page.select_option("#model", "grey")
    expect_best(page, "grey-5")
    expect(heat).to_be_hidden()


def test_labels_and_names_of_files_are_no_markup(browser: Browser, url: str) -> None:
    with opened(browser, url, [UNTRUSTED]) as page:
        page.select_option("#model", "hostile")
        choose(page, image(2, FILE_MARKUP), image(3, FILE_MARKUP))
        expect_best(page, MARKUP)
        expect(page.locator("#rows td").first).to_have_text(MARKUP)
        expect(page.locator("#rows button").first).to_have_text(FILE_MARKUP)
        expect(page.locator("#caption")).to_have_text(FILE_MARKUP)
        assert page.locator("img[src=x], img[src=y], [onerror]").count() == 0
        assert page.title() == "Try a model - keras-cnns-serve"
        # A script that did make markup of a label would fail: the browser refuses it.
        refusal = page.evaluate(
            """(text) => {
                try {
                    document.body.insertAdjacentHTML("beforeend", text);
                } catch (error) {
                    return error.name;
                }
            }""",
            MARKUP,
        )
        assert refusal == "TypeError"


def test_the_status_has_states_reasons_and_engines(page: Page, url: str) -> None:
    page.click("#to-status")
    expect(page).to_have_url(f"{url}/#status")
    grey_card = page.locator("#models .card").first
    expect(grey_card.locator("strong")).to_have_text(["Version 3", "Version 2", "Version 1"])
    expect(grey_card.locator(".pill")).to_have_text(["ready", "unavailable", "ready"])
    expect(grey_card).to_contain_text("labels.txt does not match its checksum in model.json")
    newest = grey_card.locator(".version").first
    for term, text in (
        ("Engine", "onnxruntime"),
        ("Precision", "float32"),
        ("Threads", "1 per image"),
        ("Input", "8 \u00d7 8 \u00d7 1"),
        ("Choice", "the only format; "),
    ):
        fact = newest.locator("div", has=page.get_by_text(term, exact=True)).locator("dd")
        expect(fact).to_contain_text(text)
    page.go_back()
    expect(page.locator("#try-view")).to_be_visible()


def choose_with_space(page: Page, files: Sequence[FilePayload]) -> None:
    """Press the space bar on the focused file input, and choose files.

    Playwright does not receive every file chooser of Chromium 156, even of a page with a plain file
    input. A chooser that it does not receive stays invisible, and the next press opens another one.
    """
    for _ in range(5):
        with contextlib.suppress(Error):
            with page.expect_file_chooser(timeout=4000) as chooser:
                page.keyboard.press("Space")
            break
    else:
        raise AssertionError("the space bar opens no file chooser")
    chooser.value.set_files(files)


def test_everything_works_from_the_keyboard(page: Page) -> None:
    def tab_to(selector: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.locator(f"{selector}:focus-visible").count():
                return
        raise AssertionError(f"{selector} is not reached")

    page.select_option("#model", "seen")
    tab_to("#files")
    outline = page.locator("label[for=files]").evaluate("one => getComputedStyle(one).outlineStyle")
    assert outline == "solid"
    choose_with_space(page, [image(130, "one.png"), image(240, "two.png")])
    expect_best(page, "grey-5")
    tab_to("#rows tr:nth-child(2) button")
    page.keyboard.press("Enter")
    expect_best(page, "grey-9")
    expect(page.locator("#rows tr:nth-child(2) button")).to_have_attribute("aria-current", "true")
    tab_to("#opacity")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#opacity-value")).to_have_text("51 %")
    tab_to("#camera")
    page.keyboard.press("Enter")
    expect(page.locator("#camera-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#camera-dialog")).to_be_hidden()
    tab_to("#clear")
    page.keyboard.press("Enter")
    expect(page.locator("#files")).to_be_focused()
    tab_to("#to-status")
    page.keyboard.press("Enter")
    expect(page.locator("#status-view")).to_be_visible()


def test_a_token_is_asked_for_and_kept_in_memory(
    browser: Browser, models: Path, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    options = ServerOptions(models=models, port=0, grpc_port="off", token_file=tokens, grace=0)
    with served(options) as url, opened(browser, url) as page:
        token = page.locator("#token")
        expect(token).to_be_focused()
        expect(page.locator("nav")).to_be_hidden()
        assert Axe().run(page).violations_count == 0
        for wrong in ("w" * 32, "wörong"):
            token.fill(wrong)
            page.keyboard.press("Enter")
            expect(page.locator("#alert")).to_have_text("The server does not know this token.")
            expect(token).to_have_value("")
        token.fill(TOKEN)
        page.keyboard.press("Enter")
        page.select_option("#model", "seen")
        choose(page, image())
        expect_best(page, "grey-5")
        expect(page.locator("#heat")).to_be_visible()
        expect(page.locator("#curl")).to_contain_text('"Authorization: Bearer $TOKEN"')
        assert TOKEN not in page.content()
        page.click("#to-status")
        expect(page.locator(".pill").first).to_have_text("ready")
        kept = page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]")
        assert kept == [0, 0, ""]
        page.reload()
        expect(token).to_be_focused()  # it is gone


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_in_the_way_of_anybody(
    browser: Browser, url: str, scheme: Any, width: int
) -> None:
    size: Any = {"width": width, "height": 900}
    with opened(browser, url, viewport=size, color_scheme=scheme, reduced_motion="reduce") as page:
        page.select_option("#model", "seen")
        page.select_option("#threshold", "0.7")
        damaged: FilePayload = {"name": "a", "mimeType": "image/png", "buffer": b"no image"}
        choose(page, image(130, "a-long-name-of-a-photograph-" * 4), image(), damaged)
        expect(page.locator("#heat")).to_be_visible()
        expect(page.locator("#csv")).to_be_enabled()
        for view in ("#to-try", "#to-status"):
            page.click(view)
            expect(page.locator("#try-view, .pill").locator("visible=true").first).to_be_visible()
            found = Axe().run(page)
            assert found.violations_count == 0, found.generate_report()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
