#!/usr/bin/env python
"""pip-audit, also behind mirrors of PyPI that have the page of a project but not those of its versions.

Such mirrors can answer for newest versions only; the others are listed as skipped: .ci/audit.py REQUIREMENTS
"""

import sys

import requests
from pip_audit._cli import audit
from pip_audit._service.pypi import PyPIService


class Session:
    """Asks for the page of a version and, if that is missing, for that of its project."""

    def __init__(self, session: requests.Session) -> None:
        self.session = session

    def get(self, url: str, timeout: int | None) -> requests.Response:
        """The page of the version in `url`; the project's own speaks of the newest version."""
        response = self.session.get(url=url, timeout=timeout)
        if response.status_code == 404:
            project, version = url.split("/")[-3:-1]
            newest = self.session.get(url=url.replace(f"/{project}/{version}/", f"/{project}/"), timeout=timeout)
            if newest.ok and newest.json()["info"]["version"] == version:
                return newest
        return response


if __name__ == "__main__":
    initialize = PyPIService.__init__

    def with_session(self: PyPIService, *args, **kwargs) -> None:
        """The service, with that session."""
        initialize(self, *args, **kwargs)
        self.session = Session(self.session)

    PyPIService.__init__ = with_session
    sys.argv[1:] = ["--disable-pip", "--no-deps", "--progress-spinner", "off", "--requirement", *sys.argv[1:]]
    audit()
