def handler(event, context):
    from nexus.guest.device import native

    return native.native is not None
