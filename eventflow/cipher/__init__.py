"""Keys and what is done with them. One folder, the only one that imports cryptography, and only where it is needed."""

from eventflow.cipher.keyring import Keyring, Keys, ring_from_settings
from eventflow.cipher.master import Kms, MasterKey, master_from_file, new_master

__all__ = ["Keyring", "Keys", "Kms", "MasterKey", "master_from_file", "new_master", "ring_from_settings"]
