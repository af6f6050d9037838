"""`python -m services.trainer.alive`: exit code 0 while a trainer's heartbeat is in Redis. Imports no PyTorch."""

import sys

from redis import Redis
from redis.exceptions import RedisError

from shared import keys
from shared.errors import SettingsError
from shared.settings import StoreSettings, load_settings

TIMEOUT_S = 5.0


def main() -> None:
    """Say why, where there is none."""
    try:
        with Redis.from_url(load_settings(StoreSettings).redis_url, socket_timeout=TIMEOUT_S) as redis:
            if not redis.exists(keys.TRAINER_ALIVE):
                sys.exit("No trainer's heartbeat is in Redis.")
    except (RedisError, SettingsError) as error:
        sys.exit(f"Redis does not answer: {error}" if isinstance(error, RedisError) else str(error))


if __name__ == "__main__":
    main()
