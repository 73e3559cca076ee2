"""The capsule: a run's history as one HTML file that is opened from disk, with no network and no program but a browser.

`view` gathers what the page shows, `graph` lays the workflow out, `page` makes the file and takes its history out again.
"""

from replay.export.capsule.page import Capsule, capsule_page, is_capsule, open_capsule
from replay.export.capsule.view import capsule_view

__all__ = ["Capsule", "capsule_page", "capsule_view", "is_capsule", "open_capsule"]
