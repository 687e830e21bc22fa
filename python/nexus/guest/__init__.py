"""The guest's half of Nexus: the arena's device, the Lambda runtime and the SDK shims.

Standard library only, and independent of the rest of `nexus`: in a microVM `nexus` is a namespace package that
holds nothing but this one.
"""
