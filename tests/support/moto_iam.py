"""moto's AWS API with IAM policies in full: moto itself looks at a policy's actions, and takes every resource for "*".

Here each call is held against the ARNs of the secrets and parameters that it names, with IAM's two wildcards. Stricter than AWS in
one thing: a batch of which one secret is not allowed is refused as a whole.
"""

import json
import re
import sys

from moto.iam.access_control import IAMPolicyStatement, IAMRequest
from moto.secretsmanager.models import secretsmanager_backends
from moto.server import main


def match(pattern, value):
    wild = {"*": ".*", "?": "."}
    return re.fullmatch("".join(wild.get(c) or re.escape(c) for c in pattern), value)


def secret_arn(request, secret):
    backend = secretsmanager_backends[request.account_id][request._region]
    known = backend.secrets.get(secret)
    return known.arn if known else f"arn:aws:secretsmanager:{request._region}:{request.account_id}:secret:{secret}-000000"


def parameter_arn(request, name):
    name = name.split(":")[0].strip("/")
    return f"arn:aws:ssm:{request._region}:{request.account_id}:parameter/{name}"


def needed(request):
    """Each action that the call takes, and on what."""
    body = request._body
    try:
        body = json.loads(body.decode() if isinstance(body, bytes) else body)
    except ValueError:
        body = {}
    action = request._action
    if action == "secretsmanager:BatchGetSecretValue":
        yield action, "*"
        for secret in body.get("SecretIdList", []):
            yield "secretsmanager:GetSecretValue", secret_arn(request, secret)
    elif "SecretId" in body:
        yield action, secret_arn(request, body["SecretId"])
    elif action == "ssm:GetParameters":
        for name in body["Names"]:
            yield action, parameter_arn(request, name)
    elif action == "ssm:GetParametersByPath":
        yield action, parameter_arn(request, body["Path"])
    else:
        yield action, "*"


check_one = IAMRequest.check_action_permitted


def check_all(request, resource):
    for request._action, resource in list(needed(request)):
        check_one(request, resource)


IAMPolicyStatement._match = staticmethod(match)
IAMRequest.check_action_permitted = check_all
main(sys.argv[1:])
