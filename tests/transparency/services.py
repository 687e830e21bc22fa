"""Other services of AWS through real boto3, against a stand-in for them; run natively and in an instance."""

import io
import json
import zipfile

import boto3
from describe import describe


class Steps:
    """Runs calls and records what each returns or raises; volatile members are left out."""

    VOLATILE = {
        "MessageId", "ReceiptHandle", "RequestId", "CreationDateTime", "ARN", "VersionId", "SequenceNumber", "CreatedDate", "LastChangedDate",
        "ShardIterator", "NextShardIterator", "ApproximateArrivalTimestamp", "LastModifiedDate", "Date", "KeyId", "CiphertextBlob", "Arn",
        "AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration", "QueueUrl", "TopicArn", "SubscriptionArn", "TableArn", "TableId",
        "MillisBehindLatest", "CreationDate", "RevisionId", "LastModified", "LastAccessedDate",
        "AssumedRoleId", "UserId",
    }  # fmt: skip

    def __init__(self):
        self.log = []

    def __call__(self, name, call, *args, **kwargs):
        try:
            value = call(*args, **kwargs)
        except Exception as error:
            response = getattr(error, "response", None)
            self.log.append([name, type(error).__qualname__, str(error), describe(self.stable(response), "\0")])
            return None
        self.log.append([name, describe(self.stable(value), "\0")])
        return value

    def stable(self, value):
        if isinstance(value, dict):
            kept = {k: v for k, v in value.items() if k != "HTTPHeaders"}
            return {k: type(v).__name__ if k in self.VOLATILE else self.stable(v) for k, v in kept.items()}
        return [self.stable(one) for one in value] if isinstance(value, list) else value


def dynamodb(step, mark):
    client, table = boto3.client("dynamodb"), f"table-{mark}"
    key = {
        "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
        "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    }
    client.create_table(TableName=table, BillingMode="PAY_PER_REQUEST", **key)
    step("put", client.put_item, TableName=table, Item={"id": {"S": "1"}, "n": {"N": "1.50"}, "b": {"B": b"\0\xff"}})
    step("get", client.get_item, TableName=table, Key={"id": {"S": "1"}})
    step("condition", client.put_item, TableName=table, Item={"id": {"S": "1"}}, ConditionExpression="attribute_not_exists(id)")
    step("missing table", client.get_item, TableName="none", Key={"id": {"S": "1"}})
    step("validation", client.put_item, TableName=table, Item="x")
    rows = boto3.resource("dynamodb").Table(table)
    with rows.batch_writer() as batch:
        for number in range(30):
            batch.put_item(Item={"id": f"row-{number:02}", "n": number, "text": "x" * 100})
    step("count", lambda: rows.scan(Select="COUNT")["Count"])
    pages = client.get_paginator("scan").paginate(TableName=table, PaginationConfig={"PageSize": 7})
    step("pages", lambda: [page["Count"] for page in pages])
    step(
        "update",
        rows.update_item,
        Key={"id": "row-01"},
        UpdateExpression="ADD n :one",
        ExpressionAttributeValues={":one": 1},
        ReturnValues="ALL_NEW",
    )
    items = [
        {"Put": {"TableName": table, "Item": {"id": {"S": "t"}}}},
        {"Delete": {"TableName": table, "Key": {"id": {"S": "row-02"}}}},
    ]
    step("transaction", client.transact_write_items, TransactItems=items)
    step("waiter", client.get_waiter("table_exists").wait, TableName=table)
    step(
        "large",
        lambda: client.put_item(TableName=table, Item={"id": {"S": "large"}, "b": {"B": bytes(300_000)}})["ResponseMetadata"][
            "HTTPStatusCode"
        ],
    )


def messages(step, mark):
    sqs, sns = boto3.client("sqs"), boto3.client("sns")
    url = sqs.create_queue(QueueName=f"queue-{mark}")["QueueUrl"]
    step(
        "send",
        sqs.send_message,
        QueueUrl=url,
        MessageBody="h\u00e4llo",
        MessageAttributes={"a": {"DataType": "String", "StringValue": "1"}},
    )
    got = step("receive", sqs.receive_message, QueueUrl=url, MessageAttributeNames=["All"])
    step("delete", sqs.delete_message, QueueUrl=url, ReceiptHandle=got["Messages"][0]["ReceiptHandle"])
    step("empty", sqs.receive_message, QueueUrl=url)
    step("no queue", sqs.get_queue_url, QueueName="none")
    topic = sns.create_topic(Name=f"topic-{mark}")["TopicArn"]
    step("publish", sns.publish, TopicArn=topic, Message="m", Subject="s")
    step("no topic", sns.publish, TopicArn=topic + "x", Message="m")
    step(
        "resource",
        lambda: boto3.resource("sqs").Queue(url).send_messages(Entries=[{"Id": "1", "MessageBody": "x"}])["Successful"],
    )


def secrets(step, mark):
    ssm, manager, kms, sts = (boto3.client(name) for name in ("ssm", "secretsmanager", "kms", "sts"))
    step("put parameter", ssm.put_parameter, Name=f"/{mark}/a", Value="v", Type="SecureString")
    step(
        "parameters",
        lambda: [
            (p["Name"].rpartition("/")[2], p["Value"])
            for p in ssm.get_parameters_by_path(Path=f"/{mark}", WithDecryption=True)["Parameters"]
        ],
    )
    step("no parameter", ssm.get_parameter, Name="/none")
    manager.create_secret(Name=f"secret-{mark}", SecretString="hush")
    step("secret", lambda: manager.get_secret_value(SecretId=f"secret-{mark}")["SecretString"])
    step("no secret", manager.get_secret_value, SecretId="none")
    key = kms.create_key()["KeyMetadata"]["KeyId"]
    box = kms.encrypt(KeyId=key, Plaintext=b"plain")["CiphertextBlob"]
    step("decrypt", lambda: kms.decrypt(CiphertextBlob=box)["Plaintext"])
    step("identity", sts.get_caller_identity)
    role = step("assume", sts.assume_role, RoleArn="arn:aws:iam::123456789012:role/r", RoleSessionName="session")["Credentials"]
    own = {
        "aws_access_key_id": role["AccessKeyId"],
        "aws_secret_access_key": role["SecretAccessKey"],
        "aws_session_token": role["SessionToken"],
    }
    step("as the role", boto3.client("sts", **own).get_caller_identity)


def streams(step, mark):
    kinesis, events, logs = boto3.client("kinesis"), boto3.client("events"), boto3.client("logs")
    name = f"stream-{mark}"
    kinesis.create_stream(StreamName=name, ShardCount=1)
    step("put", kinesis.put_records, StreamName=name, Records=[{"Data": b"%d" % n, "PartitionKey": "k"} for n in range(3)])
    shard = kinesis.get_shard_iterator(StreamName=name, ShardId="shardId-000000000000", ShardIteratorType="TRIM_HORIZON")
    step("get", lambda: [r["Data"] for r in kinesis.get_records(ShardIterator=shard["ShardIterator"])["Records"]])
    step("event", events.put_events, Entries=[{"Source": "s", "DetailType": "t", "Detail": "{}"}])
    logs.create_log_group(logGroupName=f"/{mark}")
    logs.create_log_stream(logGroupName=f"/{mark}", logStreamName="s")
    step(
        "log",
        lambda: sorted(
            logs.put_log_events(
                logGroupName=f"/{mark}", logStreamName="s", logEvents=[{"timestamp": 1_700_000_000_000, "message": "m"}]
            )
        ),
    )
    boto3.client("cloudwatch").put_metric_data(Namespace="n", MetricData=[{"MetricName": "m", "Value": 1.0}] * 20)


def functions(step, mark):
    iam, client = boto3.client("iam"), boto3.client("lambda")
    policy = json.dumps({"Version": "2012-10-17", "Statement": []})
    role = iam.create_role(RoleName=f"role-{mark}", AssumeRolePolicyDocument=policy)["Role"]["Arn"]
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("f.py", "def h(e, c): pass\n")
    made = client.create_function(
        FunctionName=f"f-{mark}", Runtime="python3.11", Role=role, Handler="f.h", Code={"ZipFile": package.getvalue()}
    )
    step.log.append(["made", made["Handler"]])
    step("list", lambda: [f["Runtime"] for f in client.list_functions()["Functions"] if f["FunctionName"] == f"f-{mark}"])
    step("none", client.get_function, FunctionName="none")


SCENARIOS = {f.__name__: f for f in (dynamodb, messages, secrets, streams, functions)}


def handler(event, context):
    step = Steps()
    SCENARIOS[event["scenario"]](step, event["mark"])
    return json.loads(json.dumps(step.log).replace(event["mark"], "<mark>"))
