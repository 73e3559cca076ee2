"""Backups of a store: made while runs go on, whole or of what has changed, and restored, to any point."""

from eventflow.backup.layout import Backup, Point, read_backup
from eventflow.backup.making import Made, backup
from eventflow.backup.restoring import Restored, restore

__all__ = ["Backup", "Made", "Point", "Restored", "backup", "read_backup", "restore"]
