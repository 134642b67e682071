"""What MkDocs calls while it builds: pages come from the package, the README and the notebooks, none from a folder."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # MkDocs runs this file by its path

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

from docs.site import contents, mathematics
from docs.site.contents import Site

FETCHED = re.compile(
    r"""<(?:script|img|iframe|link rel="(?:stylesheet|preload)")[^>]*(?:src|href)="(?:https?:)?//[^"]+"""
)
"""What a browser fetches from elsewhere when it opens a page."""

_made: list[Site] = []


def on_config(config: Any) -> Any:
    """Make all pages, and lead the navigation through them.

    Args:
        config: MkDocs' own.

    Returns:
        The config.
    """
    _made[:] = [contents.site()]
    config.nav = _made[0].navigation
    return config


def on_files(files: Files, config: Any) -> Files:
    """Hand the pages to MkDocs.

    Args:
        files: those of the static folder.
        config: MkDocs' own.

    Returns:
        All files.
    """
    for path, content in _made[0].files.items():
        source = {"abs_src_path": str(content)} if isinstance(content, Path) else {"content": content}
        files.append(File.generated(config, path, **source))
    return files


def on_page_content(html: str, **kwargs: Any) -> str:
    """Draw a page's mathematics.

    Args:
        html: the page.
        kwargs: MkDocs' own.

    Returns:
        The page with MathML.
    """
    return mathematics.rendered(html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that fetches anything: the site is read offline.

    Args:
        output: the page's HTML.
        page: MkDocs' own.
        config: MkDocs' own.

    Returns:
        The same HTML.

    Raises:
        PluginError: a script, a style or a picture from elsewhere.
    """
    if fetched := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} would fetch {fetched[0]}")
    return output
