"""The two languages of the pages, and how a visitor's is chosen.

The English sentence is the key; `translations/<locale>/LC_MESSAGES/messages.po` holds the
Chinese one and the English plurals. The catalogues are read once, at start, straight from the
`.po` files, so a translation is mended by editing a text file and starting again.

Kept out: who asks (handlers do, and they keep the choice in a cookie), and every sentence.

Whatever goes through `_()` in a template is trusted as HTML and formatted with `%`: sentences
of ours only, never what a person or an operator typed.
"""

from collections.abc import Callable, Mapping
from gettext import GNUTranslations
from io import BytesIO
from math import ceil
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

# What `lang` attributes and the cookie say -> the folder gettext's tools expect.
FOLDERS: Mapping[str, str] = {"en": "en", "zh-Hans": "zh_CN"}
DEFAULT = "en"


class Languages:
    """The catalogues of `folder`, and a template environment for each language."""

    def __init__(self, folder: Path, templates: Path | None = None) -> None:
        self._catalogues = {lang: _read(folder / FOLDERS[lang]) for lang in FOLDERS}
        loader = FileSystemLoader(templates or folder.parent / "templates")
        self._environments = {lang: self._environment(lang, loader) for lang in FOLDERS}

    def gettext(self, lang: str) -> Callable[[str], str]:
        return self._catalogues[lang].gettext

    def ngettext(self, lang: str) -> Callable[[str, str, int], str]:
        return self._catalogues[lang].ngettext

    def environment(self, lang: str) -> Environment:
        return self._environments[lang]

    def choose(self, accept_language: str, cookie: str | None, query: str | None) -> str:
        """What was asked for just now, else what was chosen before, else the browser's wish."""
        for wish in (query, cookie):
            if wish is not None and wish in FOLDERS:
                return wish
        return _preferred(accept_language)

    def other(self, lang: str) -> str:
        return next(each for each in FOLDERS if each != lang)

    def minutes(self, lang: str, lo_seconds: float, hi_seconds: float) -> str:
        """A range of seconds as people say it; `queue.js` says it the same way."""
        _ = self.gettext(lang)
        lo, hi = ceil(lo_seconds / 60), ceil(hi_seconds / 60)
        if hi_seconds < 60:
            return _("under a minute")
        if lo >= hi:
            return _("%(n)s min") % {"n": hi}
        return _("%(lo)s–%(hi)s min") % {"lo": max(lo, 1), "hi": hi}

    def _environment(self, lang: str, loader: FileSystemLoader) -> Environment:
        environment = Environment(
            loader=loader,
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.i18n"],
        )
        gettext, ngettext = self.gettext(lang), self.ngettext(lang)
        # The extension adds this method to the environment, where no type tells of it.
        install = environment.install_gettext_callables  # type: ignore[attr-defined]
        install(gettext, ngettext, newstyle=True)
        second = self.gettext(self.other(lang))

        def counted(what: str, count: int, one: str, other: str) -> Markup:
            """A sentence about a number that the page's script may patch: it finds both forms
            on the element, and so holds no wording of its own."""
            return Markup('<span data-count="{}" data-one="{}" data-other="{}">{}</span>').format(
                what,
                ngettext(one, other, 1) % {"num": "{n}"},
                ngettext(one, other, 2) % {"num": "{n}"},
                ngettext(one, other, count) % {"num": count},
            )

        def minutes(lo_seconds: float, hi_seconds: float) -> str:
            return self.minutes(lang, lo_seconds, hi_seconds)

        environment.globals.update(counted=counted, minutes=minutes, second=second)
        return environment


def _read(folder: Path) -> GNUTranslations:
    with (folder / "LC_MESSAGES" / "messages.po").open("rb") as text:
        catalogue = read_po(text, locale=folder.name)
    compiled = BytesIO()
    write_mo(compiled, catalogue)
    compiled.seek(0)
    return GNUTranslations(compiled)


def _preferred(accept_language: str) -> str:
    """The first language we speak, by weight; any Chinese is better than none."""
    best, best_weight = DEFAULT, 0.0
    for part in accept_language.split(","):
        tag, _, parameters = part.strip().partition(";")
        lang = {"zh": "zh-Hans", "en": "en"}.get(tag.strip().split("-")[0].lower())
        weight = _weight(parameters)
        if lang is not None and weight > best_weight:
            best, best_weight = lang, weight
    return best


def _weight(parameters: str) -> float:
    name, _, value = parameters.strip().partition("=")
    if not name:
        return 1.0
    try:
        return float(value) if name.strip() == "q" else 1.0
    except ValueError:
        return 0.0
