"""moto's AWS API with `RotateSecret` as AWS has it: the new version is pending, and without a value, until the secret's rotation function has made
one and moved AWSCURRENT to it. moto itself makes it current at once, still without a value.

The function is the test's own, and calls this API as one in AWS Lambda would.
"""

import sys
import time

from moto.secretsmanager.exceptions import InvalidRequestException
from moto.secretsmanager.models import SecretsManagerBackend
from moto.server import main


def rotate_secret(self, secret_id, client_request_token=None, rotation_lambda_arn=None, rotation_rules=None, rotate_immediately=True):
    secret = self.secrets[secret_id]
    if rotation_lambda_arn:
        secret.rotation_lambda_arn = rotation_lambda_arn
        secret.rotation_requested = secret.rotation_enabled = True
    if not rotate_immediately:
        return secret.to_short_dict()
    if not secret.rotation_enabled:
        raise InvalidRequestException("No Lambda rotation function ARN is associated with this secret.")
    for version in secret.versions.values():
        stages = version["version_stages"]
        if "AWSPENDING" in stages and "AWSCURRENT" not in stages and version["version_id"] != client_request_token:
            raise InvalidRequestException("A previous rotation isn't complete. That rotation will be reattempted.")
    if client_request_token not in secret.versions:
        secret.remove_version_stages_from_old_versions(["AWSPENDING"])
        secret.versions[client_request_token] = {
            "createdate": int(time.time()),
            "version_id": client_request_token,
            "version_stages": ["AWSPENDING"],
        }
    return secret.to_short_dict()


SecretsManagerBackend.rotate_secret = rotate_secret

if __name__ == "__main__":
    sys.exit(main())
