"""Asks for one secret over grpcio, with messages written by hand: ADDRESS CA TOOL SECRET CERTIFICATE KEY TOKEN.

An empty argument is none; the certificate "plain" is no TLS at all. Prints the value, or the name of the status code.
"""

import sys

import grpc

address, ca, tool, secret, certificate, key, token = sys.argv[1:]


def read(path):
    with open(path, "rb") as file:
        return file.read()


def text(number, value):
    """A field of a protobuf message that holds less than 128 bytes."""
    return bytes([number << 3 | 2, len(value)]) + value


def fields(message):
    """The length-delimited fields of a message, by their numbers; numbers are skipped."""
    found, at = {}, 0
    while at < len(message):
        tag, at = message[at], at + 1
        length, shift = 0, 0
        while True:
            byte, at = message[at], at + 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if tag & 7 == 2:
            found.setdefault(tag >> 3, message[at : at + length])
            at += length
    return found


if certificate == "plain":
    channel = grpc.insecure_channel(address)
else:
    credentials = grpc.ssl_channel_credentials(
        read(ca), read(key) if key else None, read(certificate) if certificate else None
    )
    channel = grpc.secure_channel(address, credentials)
metadata = [("authorization", "Bearer " + token)] if token else []


def call(method, request):
    return channel.unary_unary("/valetkey.v1.Broker/" + method)(request, metadata=metadata, timeout=10)


try:
    opened = call("OpenSession", text(1, tool.encode()) + text(2, secret.encode()))
    session = fields(opened)[1]
    answer = call("GetSecrets", text(1, session) + text(2, secret.encode()))
    print(fields(fields(answer)[1])[15].decode())
except grpc.RpcError as error:
    print(error.code().name)
