"""People in front of real browsers: headless Chromium, driven by Selenium.

One Chromium serves a whole test file. Each person is a browser context of their own in it, with
cookies, screen, language and clock that nobody else has. Whatever their pages complain of - an
error on the console, a script that threw, something that the content security policy stopped -
is collected, and `complaints()` hands it over once.

Kept out: the words and states of Now Serving's pages; the journeys know those.
"""

import base64
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from selenium import webdriver
from selenium.common.exceptions import (
    ElementClickInterceptedException,
    ElementNotInteractableException,
    JavascriptException,
    NoSuchElementException,
    StaleElementReferenceException,
)
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.processes import wait_until

# A second lock, besides the driver's given path: Selenium looks for nothing in the network.
os.environ["SE_OFFLINE"] = "true"
os.environ["SE_AVOID_STATS"] = "true"

OPTIONS = (
    # Chromium refuses to run as root inside its sandbox; these pages are our own.
    "--headless=new --no-sandbox --disable-dev-shm-usage --disable-gpu --disable-quic"
    " --no-first-run --disable-background-networking --disable-component-update --disable-sync"
    " --hide-scrollbars --force-color-profile=srgb"
).split()

PHONE = (390, 844, 1.5)
DESKTOP = (1280, 900, 1.0)

# The page may be exchanged between looking and pressing: then look again.
MOVED_AWAY = (
    StaleElementReferenceException,
    NoSuchElementException,
    ElementClickInterceptedException,
    ElementNotInteractableException,
)

REPORT_VIOLATIONS = """
addEventListener("securitypolicyviolation", (event) =>
  console.error(`policy stopped ${event.violatedDirective}: ${event.blockedURI} ${event.sample}`));
"""
CLOCK_AHEAD = """
{
  const now = Date.now.bind(Date);
  Date.now = () => now() + SECONDS * 1000;
}
"""


class Browser:
    """A Chromium; with a `profile` it finds what it kept there when it is started again."""

    def __init__(self, profile: Path | None = None) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium") or ""
        for argument in OPTIONS:
            options.add_argument(argument)
        if profile is not None:
            options.add_argument(f"--user-data-dir={profile}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # Browser contexts are made through the bidirectional protocol; a profile is one already.
        options.enable_bidi = profile is None
        driver = shutil.which("chromedriver") or ""
        self.driver = webdriver.Chrome(options=options, service=Service(executable_path=driver))
        self._first = self.driver.current_window_handle
        self._contexts: list[str] = []
        self._expected: list[str] = []

    @staticmethod
    def installed() -> bool:
        return shutil.which("chromium") is not None and shutil.which("chromedriver") is not None

    def person(self, site: str, **traits: Any) -> "Person":
        """Somebody with a browser of their own, in front of `site`."""
        context = self.driver.browser.create_user_context()
        self._contexts.append(context)
        return Person(self, site, context, **traits)

    def open_tab(self, context: str | None) -> str:
        """A new tab there, or in the profile; what the driver calls it."""
        if context is not None:
            return str(self.driver.browsing_context.create(type="tab", user_context=context))
        self.driver.switch_to.new_window("tab")
        return self.driver.current_window_handle

    def owner(self, site: str, **traits: Any) -> "Person":
        """Who uses the profile itself, and so is remembered over a restart."""
        return Person(self, site, None, **traits)

    def expect(self, *complaints: str) -> None:
        """Lines with one of these texts are no surprise until `complaints()` is asked."""
        self._expected += complaints

    def complaints(self) -> list[str]:
        """What the pages complained of since this was last asked, without what was expected."""
        lines = [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] in ("SEVERE", "WARNING")
        ]
        expected, self._expected = self._expected, []
        return [line for line in lines if not any(text in line for text in expected)]

    def send_home(self) -> None:
        """Everybody leaves and takes their cookies with them."""
        for context in self._contexts:
            self.driver.browser.remove_user_context(context)
        self._contexts.clear()
        self.driver.switch_to.window(self._first)

    def quit(self) -> None:
        # With the bidirectional protocol on, an idle Chromium now and then needs ten seconds to
        # go, and is killed then. One that was just asked something goes at once.
        self.driver.switch_to.window(self._first)
        self.driver.execute_script("")
        self.driver.quit()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.quit()


class Person:
    """One tab of somebody's browser, and what people do with it."""

    def __init__(
        self,
        browser: Browser,
        site: str,
        context: str | None,
        *,
        lang: str = "en",
        screen: tuple[int, int, float] = DESKTOP,
        dark: bool = False,
        scripts: bool = True,
        clock_ahead_seconds: float = 0,
    ) -> None:
        self.browser = browser
        self.site = site
        self._context = context
        self._traits: dict[str, Any] = {
            "lang": lang,
            "screen": screen,
            "dark": dark,
            "scripts": scripts,
            "clock_ahead_seconds": clock_ahead_seconds,
        }
        self.tab = browser.open_tab(context)
        self._devtools("Page.addScriptToEvaluateOnNewDocument", source=REPORT_VIOLATIONS)
        if clock_ahead_seconds:
            source = CLOCK_AHEAD.replace("SECONDS", str(clock_ahead_seconds))
            self._devtools("Page.addScriptToEvaluateOnNewDocument", source=source)
        self.sit_at(screen, dark)
        agent = self.driver.execute_script("return navigator.userAgent")
        self._devtools("Emulation.setUserAgentOverride", userAgent=agent, acceptLanguage=lang)
        if not scripts:
            self._devtools("Emulation.setScriptExecutionDisabled", value=True)

    @property
    def driver(self) -> webdriver.Chrome:
        """The driver, looking at this tab."""
        driver = self.browser.driver
        driver.switch_to.window(self.tab)
        return driver

    def another_tab(self) -> "Person":
        """The same browser, a second tab."""
        return Person(self.browser, self.site, self._context, **self._traits)

    def sit_at(self, screen: tuple[int, int, float] = DESKTOP, dark: bool = False) -> None:
        width, height, scale = screen
        self._devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=screen == PHONE,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._devtools("Emulation.setEmulatedMedia", features=[scheme])

    # Going

    def go(self, path: str) -> Self:
        self.driver.get(self.site + path)
        return self

    def reload(self) -> None:
        self.driver.refresh()

    def back(self) -> None:
        self.driver.back()

    # Reading

    @property
    def path(self) -> str:
        return self.driver.current_url.removeprefix(self.site)

    @property
    def title(self) -> str:
        return self.driver.title

    @property
    def text(self) -> str:
        """What can be read on the page now; hidden pieces are not in it."""
        return str(self.script("return document.body.innerText"))

    @property
    def state(self) -> str:
        return str(self.script("return document.getElementById('main')?.dataset.state ?? ''"))

    @property
    def source(self) -> str:
        """The page as it stands, with everything hidden in it and typed into it."""
        return str(
            self.script(
                "return document.documentElement.outerHTML"
                " + [...document.querySelectorAll('input, textarea')].map((e) => e.value)"
            )
        )

    def read(self, css: str) -> str:
        """The text of the first element there, or nothing."""
        return str(self.script("return document.querySelector(arguments[0])?.innerText ?? ''", css))

    def count(self, css: str) -> int:
        return int(self.script("return document.querySelectorAll(arguments[0]).length", css))

    def script(self, source: str, *arguments: object) -> Any:
        driver = self.driver
        try:
            return driver.execute_script(source, *arguments)
        except JavascriptException:
            # Between two pages there is no body yet.
            time.sleep(0.05)
            return driver.execute_script(source, *arguments)

    def waits_for(self, what: str, check: Callable[[], bool], seconds: float = 10) -> None:
        try:
            wait_until(what, seconds, check)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.path} {self.title!r}\n{self.text}") from None

    def reads(self, *texts: str, seconds: float = 10) -> None:
        """Waits until all of these stand on the page."""
        what = " and ".join(map(repr, texts))
        self.waits_for(what, lambda: _all_in(texts, self.text), seconds)

    def sees(self, state: str, seconds: float = 10) -> None:
        """Waits until the page is in this state."""
        self.waits_for(f"a page in state {state}", lambda: self.state == state, seconds)

    # Doing

    def press(self, label: str, inside: str = "", seconds: float = 10) -> None:
        """Presses the button or link that is called `label`, as soon as it can be pressed.

        A label that ends in "…" is only the beginning of what stands on the button.
        """
        name = json.dumps(label.removesuffix("…"), ensure_ascii=False)
        here = f'//*[@id="{inside}"]' if inside else ""
        called = f"[normalize-space()={name} or @aria-label={name}]"
        if label.endswith("…"):
            called = f"[starts-with(normalize-space(), {name})]"
        self._act(label, f"{here}//button{called}|{here}//a{called}", WebElement.click, seconds)

    def fill(self, label: str, text: str) -> None:
        """Types into the field that is called `label`, in place of what stands there."""

        def type_into(field: WebElement) -> None:
            field.clear()
            field.send_keys(text)

        self._act(label, _field(label), type_into)

    def value(self, label: str) -> str:
        found = self.driver.find_element(By.XPATH, _field(label))
        return str(found.get_property("value"))

    def choose(self, label: str) -> None:
        """Takes the choice that is called `label`."""
        name = json.dumps(label, ensure_ascii=False)
        self._act(label, f"//label[.//b[normalize-space()={name}]]", WebElement.click)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """The page as a PNG; the `whole` page or what is on the screen."""
        options: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
        if whole:
            size = self._devtools("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "scale": 1} | {
                side: size[side] for side in ("width", "height")
            }
        path.write_bytes(
            base64.b64decode(self._devtools("Page.captureScreenshot", **options)["data"])
        )

    def cookie(self) -> str:
        """All cookies as the browser sends them, for asking the server the same question."""
        cookies = self._devtools("Network.getCookies", urls=[self.site])["cookies"]
        return "; ".join(f"{cookie['name']}={cookie['value']}" for cookie in cookies)

    def _act(
        self, label: str, xpath: str, act: Callable[[WebElement], None], seconds: float = 10
    ) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                found = self.driver.find_elements(By.XPATH, xpath)
                shown = [each for each in found if each.is_displayed() and each.is_enabled()]
                if shown:
                    return act(shown[0])
            except MOVED_AWAY as error:
                if time.monotonic() > deadline:
                    raise AssertionError(f"{label!r} cannot be used: {error.msg}") from None
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing called {label!r} on {self.path}\n{self.text}")
            time.sleep(0.05)

    def _devtools(self, command: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, parameters)


def _field(label: str) -> str:
    name = json.dumps(label, ensure_ascii=False)
    return f"//*[@id=//label[starts-with(normalize-space(), {name})]/@for]"


def _all_in(texts: tuple[str, ...], page: str) -> bool:
    return all(text in page for text in texts)
