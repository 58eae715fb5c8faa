"""What a server says about a wrong request."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse


def answer_in_words(app: FastAPI) -> None:
    """Lets an application name the wrong fields of a request, with status 422.

    FastAPI's own answer repeats what was sent. It fails with status 500 where that is NaN or no valid Unicode.
    """
    app.add_exception_handler(RequestValidationError, _wrong)


async def _wrong(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = (f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
    return JSONResponse({"detail": "; ".join(problems)}, 422)
