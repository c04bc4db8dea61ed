"""What is asked about features' descriptions, where a study names a model behind an endpoint."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from subliminal_dagster.science.descriptions.chat_api import ApiSettings, ChatApi, Endpoint
from subliminal_dagster.science.models.protocol import Progress


class JudgeResource(dg.ConfigurableResource):
    """An OpenAI-compatible endpoint; address, model and key are read from the environment when it is asked."""

    cache: str = Field(description="The file that keeps every answer, so that nothing is paid for twice.")
    parallel: int = Field(default=8, description="Requests under way at once.")
    requests_per_minute: float | None = Field(default=None, description="Most requests that are started in a minute.")
    reasoning_tokens: int = Field(default=0, description="Tokens that a model may write before its answer begins.")
    prompt_price: float | None = Field(default=None, description="Price per million prompt tokens, for the cost shown.")
    answer_price: float | None = Field(default=None, description="Price per million answer tokens, for the cost shown.")

    def create(self, model: str | None, progress: Progress) -> ChatApi:
        """What judges ask, `model` or the one that the environment names; raises UserError where the environment does
        not say who that is."""
        use = ApiSettings(
            parallel=self.parallel,
            requests_per_minute=self.requests_per_minute,
            reasoning_tokens=self.reasoning_tokens,
            prompt_price=self.prompt_price,
            answer_price=self.answer_price,
        )
        return ChatApi(Endpoint.from_environment(model), Path(self.cache), use, progress)
