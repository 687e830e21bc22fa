from crash.fixtures import node, store

__all__ = ["node", "store"]
