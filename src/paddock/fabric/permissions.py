"""Role → the subjects it may publish and subscribe: the permission templates of the scoped signing keys.

`{{tag(x)}}` stands for a whole subject token, filled in by the server from the tags of the user's token.
"""

from __future__ import annotations

from paddock.fabric import subjects

_NODE, _FLEET, _NAME, _WORK = "{{tag(node)}}", "{{tag(fleet)}}", "{{tag(name)}}", "{{tag(work)}}"
_OWN = [(f"{{{{tag(own{i})}}}}", lane) for i, lane in enumerate(subjects.LANES)]
"""(consumer, lane) of the lanes for one agent alone."""

_ASKS_OTHERS = [
    "work.>",
    "later.>",
    "wake.>",
    "sync.*",
    "topic.>",
    "ask.>",
    f"$JS.API.DIRECT.GET.{subjects.RESULTS}.result.*.*",
]
"""To submit, publish and ask, and to look for a result by its id."""

_NODE_PUB = [
    f"$KV.now.agent.{_NODE}.>",
    f"$KV.now.node.{_NODE}",
    f"note.vitals.{_NODE}",
    "event.>",
    "wake.>",
    "sync.*",
    "_INBOX.>",
    "$JS.ACK.>",
    "work.>",
    f"$JS.API.DIRECT.GET.{subjects.WANTED}",
    f"$JS.API.STREAM.INFO.{subjects.WANTED}",
]
_NODE_SUB = [
    f"_INBOX.node.{_NODE}.>",
    f"_INBOX.agent.{_NODE}.>",
    f"node.{_NODE}",
    "node.all",
    f"wake.{subjects.WANTED}",
]
_AGENT_PUB = [
    *(f"$JS.API.CONSUMER.MSG.NEXT.{_WORK}.{lane}" for lane in subjects.LANES),
    *(f"$JS.API.CONSUMER.MSG.NEXT.{_WORK}.{consumer}" for consumer, _ in _OWN),
    *(f"$JS.API.CONSUMER.CREATE.{_WORK}.{consumer}.work.{_FLEET}.a.{_NAME}.{lane}.*" for consumer, lane in _OWN),
    f"$JS.API.DIRECT.GET.{_WORK}",
    f"$JS.ACK.{_WORK}.>",
    f"$JS.API.DIRECT.GET.{subjects.STATE}.$KV.state.{_FLEET}.{_NAME}.>",
    f"$KV.state.{_FLEET}.{_NAME}.>",
    f"result.{_FLEET}.*",
    f"note.running.{_FLEET}.*",
    f"note.progress.{_FLEET}.*",
    "_INBOX.>",
    *_ASKS_OTHERS,
]
_AGENT_SUB = [
    f"{subjects.agent_inbox(_NODE, _FLEET, _NAME)}.>",
    f"work.{_FLEET}.a.{_NAME}.>",
    f"ask.{_FLEET}.{_NAME}",
    f"ask.{_FLEET}",
    "topic.>",
]

PERMISSIONS = {
    "server": {"pub": [">"], "sub": [">"]},
    "node": {"pub": _NODE_PUB, "sub": _NODE_SUB},
    "agent": {"pub": _AGENT_PUB, "sub": _AGENT_SUB},
    "client": {"pub": _ASKS_OTHERS, "sub": [f"_INBOX.client.{_NAME}.>", "topic.>"]},
}
