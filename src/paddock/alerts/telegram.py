"""The channel `telegram`: the bot's HTTP API, one message to each chat."""

from __future__ import annotations

import msgspec

from paddock.alerts.http import JsonPoster
from paddock.alerts.secrets import read_secret
from paddock.model.errors import PaddockError, Refused, Unavailable
from paddock.model.notify import Channel, Message
from paddock.ports.alerts import PartlyRefused

API = "https://api.telegram.org"
TEXT_CHARS_MAX = 4096


class Answer(msgspec.Struct, frozen=True):
    ok: bool


class TelegramSender:
    def __init__(self, channel: Channel) -> None:
        token = read_secret(channel)
        if not token or not all(letter.isascii() and (letter.isalnum() or letter in ":_-") for letter in token):
            raise Refused("the secret of this channel is no token of a bot: ask @BotFather for one")
        url = f"{(channel.url or API).rstrip('/')}/bot{token}/sendMessage"
        self._poster = JsonPoster(url, timeout_s=channel.timeout_s, secrets=(token,))
        self._chats = channel.to
        self._had: dict[str, Message] = {}
        """chat → the last message that it had, or refused."""

    async def send(self, message: Message) -> None:
        """To every chat, whatever becomes of the others; who had it is not sent it again when it is tried anew."""
        refused: list[PaddockError] = []
        later: list[Unavailable] = []
        for chat in self._chats:
            if self._had.get(chat) == message:
                continue
            try:
                await self._send(message, chat)
            except Unavailable as error:
                later.append(error)
                continue
            except PaddockError as error:
                refused.append(error)
            self._had[chat] = message
        if later:
            raise later[0]
        if refused:
            raise refused[0] if len(refused) == len(self._chats) else PartlyRefused(refused[0].message)

    async def _send(self, message: Message, chat: str) -> None:
        text = f"{message.title}\n\n{message.text}"[:TEXT_CHARS_MAX]
        data = await self._poster.post({"chat_id": chat, "text": text, "disable_web_page_preview": True})
        try:
            ok = msgspec.json.decode(data, type=Answer).ok
        except msgspec.MsgspecError:
            ok = False
        if not ok:
            raise Unavailable("what answered is not Telegram's API: is the address of this channel right?")

    async def close(self) -> None:
        await self._poster.close()
