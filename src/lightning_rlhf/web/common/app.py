"""The application that a page begins with: who may use it, and its files."""

from collections.abc import Collection
from functools import partial
from importlib.resources import files

from fastapi import FastAPI, Response
from fastapi.responses import FileResponse

from lightning_rlhf.web.access import protect
from lightning_rlhf.web.markdown import code_css
from lightning_rlhf.web.mistakes import answer_in_words

_SHARED = ("common.css", "common.js", "icon.svg")


def page_app(name: str, package: str, names: Collection[str], *, host: str, password: str | None) -> FastAPI:
    """Makes an application that serves a page.

    Args:
        name: Name of the page.
        package: The package with its `page.html`.
        names: Other files of this package that the page loads.
        host: Address at which the application listens.
        password: Password of the page; None for none.
    """
    # Nothing else is served: not even the description of the interface, whose page would load scripts from elsewhere.
    app = FastAPI(title=f"lightning-rlhf {name}", docs_url=None, redoc_url=None, openapi_url=None)
    found = {"/": files(package) / "page.html"}
    found |= {f"/{file}": files(package) / file for file in names}
    found |= {f"/{file}": files(__package__) / file for file in _SHARED}
    for path, file in found.items():
        app.get(path)(partial(_file, str(file)))
    app.get("/code.css")(_code)
    # The files of the page hold no data.
    protect(app, f"lightning_rlhf_{name}", host, password, public=(*found, "/code.css"))
    answer_in_words(app)
    return app


def _file(path: str, /) -> FileResponse:
    return FileResponse(path)


def _code() -> Response:
    return Response(code_css(), media_type="text/css")
