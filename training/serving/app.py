"""The routes: the page, an edit, the Open Inference Protocol, metrics, the API's description."""

from typing import Any

from fastapi import APIRouter, FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp

from training.serving import pages, pictures, protocol
from training.serving.guard import Access, Guard
from training.serving.pages import Page
from training.serving.problems import Problem
from training.serving.schemas import DESCRIPTION, INFER, PROBLEMS, TRANSLATE
from training.serving.service import GoneError, Service

LEFT = 499  # nginx's status of a client that left; nobody reads it but the metrics


def application(service: Service, who: Access) -> ASGIApp:
    """The whole application of a service for those who may ask."""
    app = FastAPI(
        title="Edits by a promoted model", description=DESCRIPTION,
        version=protocol.server()["version"], docs_url=None, redoc_url=None,
        openapi_url="/openapi.json", responses=PROBLEMS,
    )  # fmt: skip
    app.include_router(_edits(service))
    app.include_router(_inference(service))
    app.include_router(_state(service))
    app.include_router(_pages(app, service, token=bool(who.token)))
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(GoneError, _gone)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _failed)
    return Guard(app, who, service.limits.bytes, service.figures)


def _edits(service: Service) -> APIRouter:
    router = APIRouter(tags=["edits"])

    @router.get("/model", summary="What the served model offers")
    async def model() -> JSONResponse:
        return JSONResponse(service.served.offer())

    @router.post(
        "/translate", summary="Edit a picture", response_class=Response, openapi_extra=TRANSLATE,
        responses={200: {"content": {pictures.PNG: {}}, "description": "The edited picture."}},
    )  # fmt: skip
    async def translate(request: Request) -> Response:
        with service.place():
            made, headers = await service.translate(request)
        return Response(made, media_type=pictures.PNG, headers=headers)

    return router


def _inference(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol"])

    def check(name: str, version: str = "") -> None:
        served = service.served
        if name != served.name or version not in ("", served.version):
            asked = f"{name} version {version}" if version else name
            raise Problem(
                404, f"{asked[:100]} is not served", "the path",
                f"{served.name}, version {served.version}, is",
            )  # fmt: skip

    def ready() -> JSONResponse:
        good = not (service.leaving or service.stopping)
        return JSONResponse({"ready": good}, 200 if good else 503)

    @router.get("/health/live", summary="The process answers")
    async def live() -> JSONResponse:
        return JSONResponse({"live": True})

    @router.get("/health/ready", summary="New edits are welcome; 503 from the first signal on")
    async def server_ready() -> JSONResponse:
        return ready()

    @router.get("", summary="The server's metadata")
    async def server() -> JSONResponse:
        return JSONResponse(protocol.server())

    @router.get("/models/{name}", summary="The model's metadata")
    @router.get("/models/{name}/versions/{version}", summary="The version's metadata")
    async def metadata(name: str, version: str = "") -> JSONResponse:
        check(name, version)
        return JSONResponse(protocol.metadata(service.served))

    @router.get("/models/{name}/ready", summary="The model takes edits")
    @router.get("/models/{name}/versions/{version}/ready", summary="The version takes edits")
    async def model_ready(name: str, version: str = "") -> JSONResponse:
        check(name, version)
        return ready()

    @router.post("/models/{name}/infer", summary="Inference", openapi_extra=INFER)
    @router.post(
        "/models/{name}/versions/{version}/infer", summary="Inference by one version",
        openapi_extra=INFER,
    )  # fmt: skip
    async def inference(request: Request, name: str, version: str = "") -> JSONResponse:
        check(name, version)
        with service.place():
            served, given, result = await service.infer(request)
        return JSONResponse(protocol.answer(served, given, result), headers=served.headers)

    return router


def _state(service: Service) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(service.figures.text(), media_type=CONTENT_TYPE_LATEST)

    return router


def _pages(app: FastAPI, service: Service, *, token: bool) -> APIRouter:
    router = APIRouter(include_in_schema=False)
    edit, docs = pages.edit_page(service.limits, token=token), list[Page]()

    @router.get("/", response_class=HTMLResponse)
    async def page() -> HTMLResponse:
        return _html(edit)

    @router.get("/docs", response_class=HTMLResponse)
    async def described() -> HTMLResponse:
        if not docs:
            docs.append(pages.docs_page(app.openapi(), token=token))
        return _html(docs[0])

    return router


def _html(page: Page) -> HTMLResponse:
    return HTMLResponse(page.text, headers={"Content-Security-Policy": page.policy})


async def _problem(request: Request, error: Any) -> Response:
    return error.response()


async def _http(request: Request, error: Any) -> Response:
    allow = (error.headers or {}).get("Allow", "")
    fix = f"use {allow}" if allow else "GET /docs lists the routes"
    return Problem(error.status_code, str(error.detail), "the path", fix, allow=allow).response()


async def _gone(request: Request, error: Any) -> Response:
    return Response(status_code=LEFT)


async def _failed(request: Request, error: Exception) -> Response:
    """The traceback goes to the log; no picture is in it."""
    return Problem(
        500, "the server failed", "", "see its log; send it again, or another picture"
    ).response()
