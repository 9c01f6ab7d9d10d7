"""A SPIFFE agent for tests: serves the Workload API by the contract that the SPIFFE project's own library has (spiffe on PyPI), from a
file that a test replaces. `python workload_api.py SOCKET STATE` serves; `python workload_api.py SOCKET` asks, as that library does, and
prints what it was told."""

import base64
import concurrent.futures
import json
import os
import sys
import time

import grpc
from spiffe._proto import workload_pb2 as messages, workload_pb2_grpc as contract


class Agent(contract.SpiffeWorkloadAPIServicer):
    def __init__(self, state):
        self.state = state

    def read(self):
        try:
            stamp = os.stat(self.state).st_ino, os.stat(self.state).st_mtime_ns
            with open(self.state) as file:
                return stamp, json.load(file)
        except FileNotFoundError:
            return None, None

    def FetchX509SVID(self, request, context):
        # Workload Endpoint, 3: whoever does not say this is refused.
        if ("workload.spiffe.io", "true") not in context.invocation_metadata():
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
        told = None
        while context.is_active():
            stamp, state = self.read()
            if stamp is not None and stamp != told:
                told = stamp
                if "end" in state:
                    return
                if "deny" in state:
                    context.abort(grpc.StatusCode.PERMISSION_DENIED, state["deny"])
                yield answer(state)
            time.sleep(0.02)


def answer(state):
    der = lambda all: b"".join(base64.b64decode(one) for one in all)
    svids = [
        messages.X509SVID(
            spiffe_id=svid["id"],
            x509_svid=der(svid["chain"]),
            x509_svid_key=base64.b64decode(svid["key"]),
            bundle=der(svid["bundle"]),
        )
        for svid in state["svids"]
    ]
    federated = {name: der(bundle) for name, bundle in state.get("federated", {}).items()}
    lists = [base64.b64decode(one) for one in state.get("crl", [])]
    return messages.X509SVIDResponse(svids=svids, federated_bundles=federated, crl=lists)


def serve(socket, state):
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(16))
    contract.add_SpiffeWorkloadAPIServicer_to_server(Agent(state), server)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    print("serving", flush=True)
    server.wait_for_termination()


def ask(socket):
    from spiffe import WorkloadApiClient

    with WorkloadApiClient(f"unix:{socket}") as client:
        context = client.fetch_x509_context()
        bundles = context.x509_bundle_set.bundles
        print(json.dumps({
            "id": str(context.default_svid.spiffe_id),
            "domains": sorted(str(bundle.trust_domain) for bundle in bundles),
        }))


if __name__ == "__main__":
    serve(*sys.argv[1:]) if len(sys.argv) == 3 else ask(sys.argv[1])
