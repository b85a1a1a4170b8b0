"""Flask with the routes of ../spellings.go, on the server that it brings."""

from importlib.metadata import version
from platform import python_version

from flask import Flask
from werkzeug.serving import make_server

app = Flask(__name__)


def takes(route):
    return lambda **_: ("", 200, {"X-Took": route})


for number, (method, rule, route) in enumerate(
    [
        ("POST", "/beacon", "/beacon"),
        ("GET", "/pixel.gif", "/pixel.gif"),
        ("PATCH", "/patch", "/patch"),
        ("POST", "/a/<id>/b", "/a/*/b"),
        ("POST", "/t/keep", "/t/keep"),
        ("POST", "/t/<path:rest>", "/t/*"),
        ("POST", "/api/beacon", "/api/beacon"),
    ]
):
    app.add_url_rule(rule, str(number), takes(route), methods=[method])

server = make_server("127.0.0.1", 0, app, threaded=True)
print(
    f"127.0.0.1:{server.port} Flask {version('flask')} and Werkzeug {version('werkzeug')} on Python {python_version()}",
    flush=True,
)
server.serve_forever()
