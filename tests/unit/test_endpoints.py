"""A node's own endpoints are found by every name that an SDK has for the service."""

import pytest
from nexus.errors import NexusError
from nexus.node import endpoints


@pytest.mark.parametrize(
    ("service", "names"),
    [
        ("dynamodb", ["dynamodb"]),
        ("secretsmanager", ["secretsmanager", "secrets-manager"]),
        ("cloudwatch", ["cloudwatch", "monitoring"]),
        ("logs", ["logs", "cloudwatch-logs"]),
        ("stepfunctions", ["stepfunctions", "states", "sfn"]),
        ("bedrock-runtime", ["bedrock-runtime", "bedrock"]),
    ],
)
def test_names(service, names):
    assert endpoints.names(service) == names


@pytest.mark.parametrize(("service", "hint"), [("dynamo", "dynamodb"), ("../s3", "boto3.client"), ("", "boto3.client")])
def test_an_unknown_service_is_refused(service, hint):
    with pytest.raises(NexusError) as caught:
        endpoints.names(service)
    assert hint in caught.value.hint
