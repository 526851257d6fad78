"""What anybody may see: the lines, one line's public state, the wall, and the language.

Numbers only; nobody's name is ever on these pages.
"""

from handlers.base import Api, Handler, Page, local_path
from handlers.languages import FOLDERS
from handlers.wire import JsonObject, public_body
from queue_backend.errors import BadInput
from queue_backend.people.line import WaitingLine


class _Public(Handler):
    def public(self, line: WaitingLine) -> JsonObject:
        now = self.parts.clock.wall()
        return public_body(line.public(), self.desk(line), self.language, now, self.parts.build)


class LinesApi(_Public, Api):
    """GET /api/lines"""

    def get(self) -> None:
        self.answer({"lines": [self.public(line) for line in self.parts.lines.values()]})


class LineApi(_Public, Api):
    """GET /api/lines/{line}"""

    def get(self, name: str) -> None:
        self.answer(self.public(self.line(name)))


class FrontPage(_Public, Page):
    """GET /: the only line, or the choice of lines."""

    def get(self) -> None:
        lines = list(self.parts.lines.values())
        if len(lines) == 1:
            return self.see(f"/lines/{lines[0].name}")
        self.show("lines.html", lines=[self.public(line) for line in lines])


class WallPage(_Public, Page):
    """GET /lines/{line}/wall"""

    def get(self, name: str) -> None:
        line = self.line(name)
        self.show("wall.html", line, public=self.public(line))


class LanguagePage(Page):
    """POST /language"""

    def post(self) -> None:
        form = self.form_body()
        if form.get("lang") not in FOLDERS:
            raise BadInput("language-unknown", "lang")
        self.remember_language(form["lang"])
        self.see(local_path(form.get("back", "")))
