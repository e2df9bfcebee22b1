"""`/docs` and `/redoc`: pages of the API's document that need no internet."""

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from gateway.api.paths import DOCS_FILES

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
"""The pages load nothing from elsewhere: Redoc would load a logo, Swagger UI a badge."""


def add_docs(app: FastAPI) -> None:
    """Serve both pages, and the files of fastapi-offline that they load."""
    files = StaticFiles(packages=[("fastapi_offline", "static")])
    script, style, redoc_script, icon = DOCS_FILES

    async def docs(_: Request) -> Response:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=app.title,
            swagger_js_url=script,
            swagger_css_url=style,
            swagger_favicon_url=icon,
            swagger_ui_parameters={"validatorUrl": None},
        )

    async def redoc(_: Request) -> Response:
        return get_redoc_html(
            openapi_url="/openapi.json",
            title=app.title,
            redoc_js_url=redoc_script,
            redoc_favicon_url=icon,
            with_google_fonts=False,
        )

    async def file(request: Request) -> Response:
        name = request.url.path.removeprefix("/docs/")
        return await files.get_response(name, request.scope)

    app.add_route("/docs", docs, include_in_schema=False)
    app.add_route("/redoc", redoc, include_in_schema=False)
    for path in DOCS_FILES:
        app.add_route(path, file, include_in_schema=False)
