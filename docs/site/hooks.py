"""What MkDocs calls while it builds: pages come from the package, the README and the notebooks, none from a folder."""

import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # MkDocs runs this file by its path

from mkdocs.exceptions import PluginError
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

from allora_analysis.claims.ledger import all_claims
from docs.site import contents, finish
from docs.site.contents import Site

FETCHED = re.compile(
    r"""<(?:script|img|iframe|link rel="(?:stylesheet|preload)")[^>]*(?:src|href)="(?:https?:)?//[^"]+"""
)
"""What a browser fetches from elsewhere when it opens a page."""

DIALOG = 'data-md-component="search" role="dialog"'
CLAIMS = frozenset(claim.id for claim in all_claims())
_made: list[Site] = []


def on_config(config: Any) -> Any:
    """Make all pages, and lead the navigation through them.

    Args:
        config: MkDocs' own.
    """
    _made[:] = [contents.site()]
    config.nav = _made[0].navigation
    return config


def on_files(files: Files, config: Any) -> Files:
    """Hand the pages to MkDocs.

    Args:
        files: those of the static folder.
        config: MkDocs' own.
    """
    for path, content in _made[0].files.items():
        source = {"abs_src_path": str(content)} if isinstance(content, Path) else {"content": content}
        files.append(File.generated(config, path, **source))
    return files


def on_page_content(html: str, page: Any, **kwargs: Any) -> str:
    """Finish a page, and describe it by what it opens with.

    Args:
        html: the page.
        page: MkDocs' own.
        kwargs: MkDocs' own.
    """
    done = finish.finished(html, "../" * page.url.count("/"), CLAIMS)
    page.meta.setdefault("description", finish.description(html) or f"{page.title} of allora_analysis")
    return done


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse a page that fetches anything: the site is read offline. And give the theme's search dialog its name.

    Args:
        output: the page's HTML.
        page: MkDocs' own.
        config: MkDocs' own.

    Raises:
        PluginError: a script, a style or a picture from elsewhere.
    """
    if fetched := FETCHED.search(output):
        raise PluginError(f"{page.file.src_uri} would fetch {fetched[0]}")
    return _named(output)


def on_post_template(output_content: str, template_name: str, config: Any) -> str:
    """Give the search dialog its name on the page of what is not found, which is a template of the theme's.

    Args:
        output_content: the template, filled.
        template_name: its name.
        config: MkDocs' own.
    """
    return _named(output_content)


def _named(output: str) -> str:
    return output.replace(DIALOG, f'{DIALOG} aria-label="Search"')


@event_priority(-100)
def on_post_build(config: Any) -> None:
    """Let the search find a word in either spelling, British or American: after the plugin has written its index.

    Args:
        config: MkDocs' own.
    """
    path = Path(config.site_dir) / "search" / "search_index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    for one in index["docs"]:
        if other := finish.spelt_both_ways(f"{one['title']} {one['text']}"):
            one["text"] += f"<p hidden>{other}</p>"
    path.write_text(json.dumps(index, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
