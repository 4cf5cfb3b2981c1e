"""An agent written from docs/protocol.md alone, with plain nats-py."""

import asyncio
import json
import os
import signal
import time

import nats
from nats.errors import TimeoutError as NoMessage

FLEET, NAME = os.environ["PADDOCK_AGENT"].split("/")
EPOCH = int(os.environ["PADDOCK_EPOCH"])
STREAM = f"WORK_{FLEET}"


class Node:
    """The node's socket, one JSON object a line."""

    def __init__(self):
        self.done = 0

    async def open(self):
        self.reader, self.writer = await asyncio.open_unix_connection(os.environ["PADDOCK_SOCKET"])
        self.say(
            op="hello",
            agent=f"{FLEET}/{NAME}",
            epoch=EPOCH,
            token=os.environ["PADDOCK_SOCKET_TOKEN"],
            pid=os.getpid(),
            holds=[],
            ready=False,
        )

    def say(self, **line):
        self.writer.write(json.dumps(line).encode() + b"\n")

    async def beat(self):
        while True:
            self.say(op="beat", done=self.done, failed=0)
            await asyncio.sleep(1)


async def handle(nc, node, message):
    task = json.loads(message.data)
    node.say(op="hold", task=task["id"], ack=message.reply)
    started = time.time()
    result = {
        **{key: task[key] for key in ("id", "fleet", "method")},
        "state": "done",
        "result": {"doubled": task["args"]["x"] * 2},
        "attempts": int(message.reply.split(".")[4]),
        "agent": f"{FLEET}/{NAME}",
        "epoch": EPOCH,
        "args": task["args"],
        "submitted_at": task["submitted_at"],
        "started_at": started,
        "finished_at": time.time(),
    }
    await nc.request(f"result.{FLEET}.{task['id']}", json.dumps(result).encode())
    await nc.publish("wake.RESULTS")
    notify = (message.headers or {}).get("Paddock-Notify")
    if notify:
        await nc.publish(notify, json.dumps(result).encode())
    await nc.publish(message.reply, b"+ACK")
    node.done += 1
    node.say(op="drop", task=task["id"])


async def work(nc, node, consumer):
    inbox = nc.new_inbox()
    waiting = await nc.subscribe(inbox)
    while True:
        ask = {"batch": 1, "expires": 5_000_000_000}
        await nc.publish(f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}", json.dumps(ask).encode(), reply=inbox)
        try:
            message = await waiting.next_msg(timeout=6)
        except NoMessage:
            continue
        if message.reply.startswith("$JS.ACK."):
            await handle(nc, node, message)


async def own_work(nc, node):
    woken = asyncio.Event()

    async def wake(message):
        woken.set()

    await nc.subscribe(f"work.{FLEET}.a.{NAME}.>", cb=wake)
    await woken.wait()
    for lane in ("p0", "p1", "p2", "p3"):
        consumer, subject = f"a-{NAME}-{lane}", f"work.{FLEET}.a.{NAME}.{lane}.*"
        config = {
            "durable_name": consumer,
            "ack_policy": "explicit",
            "filter_subject": subject,
            "inactive_threshold": 300_000_000_000,
        }
        await nc.request(
            f"$JS.API.CONSUMER.CREATE.{STREAM}.{consumer}.{subject}",
            json.dumps({"stream_name": STREAM, "config": config}).encode(),
        )
    await asyncio.gather(*(work(nc, node, f"a-{NAME}-{lane}") for lane in ("p0", "p1", "p2", "p3")))


async def main():
    nc = await nats.connect(
        os.environ["PADDOCK_NATS_URL"],
        user_credentials=os.environ["PADDOCK_CREDS"],
        inbox_prefix=os.environ["PADDOCK_INBOX"].encode(),
    )
    node = Node()
    await node.open()
    node.say(op="ready")
    loops = [work(nc, node, lane) for lane in ("p0", "p1", "p2", "p3")]
    running = asyncio.gather(*loops, own_work(nc, node), node.beat())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        await nc.close()


asyncio.run(main())
