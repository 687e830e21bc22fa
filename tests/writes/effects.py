"""A function that writes an object and then reaches out in another way; see test_barriers.py."""

import socket
import time

import boto3

s3 = boto3.client("s3")


def by_socket(port):
    connections = []

    def send(data):
        if not connections:
            connections.append(socket.create_connection(("127.0.0.1", port), 20))
        connections[0].sendall(data)
        return connections[0].recv(100).decode()

    return send


def by_requests(port):
    import requests

    session = requests.Session()
    return lambda data: session.post(f"http://127.0.0.1:{port}/post", data=data, timeout=20).status_code


def by_grpc(port):
    import grpc

    call = grpc.insecure_channel(f"127.0.0.1:{port}").unary_unary("/test.Service/echo")
    return lambda data: call(data, timeout=20).decode()


def handler(event, context):
    if "by" not in event:
        s3.put_object(Bucket=event["bucket"], Key="warm", Body=b"")
        return None
    send = {"socket": by_socket, "requests": by_requests, "grpc": by_grpc}[event["by"]](event["port"])
    early = send(b"early") if event["early"] else None
    began = time.monotonic()
    s3.put_object(Bucket=event["bucket"], Key=event["key"], Body=b"written first")
    taken = time.monotonic() - began
    return [early, send(event["mark"].encode()), taken]
