"""What must never be seen: secret values are sealed where they are written, and opened only by who has the keys.

*Master keys* come from the settings and never leave a process. *Data keys* are rows of L3, each wrapped by a master
key; values are sealed by keys that are derived from these. So a rotation of master keys wraps a few rows anew, and no
value. Rules are in `sealing`, `data_keys`, `master_keys`, `known_keys` and `masking`; `key_ring` and `rotating` act.
"""
