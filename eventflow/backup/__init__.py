"""Backups of a store: made while runs go on, whole or of what has changed, and restored, to any point."""

from eventflow.backup.layout import Backup, Point, read_backup
from eventflow.backup.making import Made, backup, write_mark
from eventflow.backup.restoring import Restored, assembled, restore

__all__ = ["Backup", "Made", "Point", "Restored", "assembled", "backup", "read_backup", "restore", "write_mark"]
