"""The capsule: a run's history as one HTML file that is opened from disk, with no network and no program but a browser.

`view` gathers what the page shows, `index` what belongs together in it, `graph` lays the workflow out, `encoding` writes
values as a browser can hold them, `page` makes the file and takes its history out again.
"""
