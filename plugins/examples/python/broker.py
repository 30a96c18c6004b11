"""A credential resolver: asks an HTTP service for a token of the caller's, and places it without ever reading it."""

import json
import time
from contextlib import ExitStack

from componentize_py_types import Err
from wit_world.exports import Resolver as ResolverHook
from wit_world.imports import config, http, secrets
from wit_world.imports.error import Error_InvalidConfig, Error_Unavailable, Error_Upstream, UpstreamError
from wit_world.imports.http import Body_Bytes, Header, HeaderValue_Secret, HeaderValue_Text, Request
from wit_world.imports.secrets import Part_Secret, Part_Text, Secret


class Resolver(ResolverHook):
    def resolve(self, caller, target, into):
        written = json.loads(config.get())
        url = written.get("url") if isinstance(written, dict) else None
        if not isinstance(url, str):
            raise Err(Error_InvalidConfig("url: is missing"))
        # Handles are given back at the end: an instance that still holds any is not used for another call.
        with ExitStack() as held:
            key = held.enter_context(secrets.get("broker-key"))
            authorization = held.enter_context(Secret.concat([Part_Text("Bearer "), Part_Secret(key)]))
            question = json.dumps({"subject": caller.subject(), "server": target.server()})
            request = Request(
                method="POST",
                url=url,
                headers=[
                    Header("authorization", HeaderValue_Secret(authorization)),
                    Header("content-type", HeaderValue_Text("application/json")),
                ],
                body=Body_Bytes(question.encode()),
                timeout_ms=2000,
            )
            try:
                answer = held.enter_context(http.send(request))
            except Err as error:
                raise Err(Error_Unavailable("the broker gives no answer")) from error
            status = answer.status()
            if status == 404:
                into.missing(f"an account of {caller.subject()} at the broker")
                return
            token = answer.take_secret("/token") if status == 200 else None
            if token is None:
                raise Err(Error_Upstream(UpstreamError(status, "the broker gave no token")))
            into.header("authorization", [Part_Text("Bearer "), Part_Secret(held.enter_context(token))])
            seconds = answer.number("/expires_in")
            if seconds is not None and seconds > 0:
                into.expires(int(time.time() * 1000) + int(seconds) * 1000)
