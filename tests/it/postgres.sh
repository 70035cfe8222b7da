# A throw-away PostgreSQL cluster in a directory of its own, reached by a socket there and by no port. Says where once it
# is ready, or "missing" where there is none of version 15 or later, and ends when its input does, so that it never outlives the tests that started it. Until then it is told to
# "stop", as by a power cut, and to "start", to go on as a "standby" without a primary, and to "promote" that, and repeats
# each word once that is done. With SMALL_DISK it also has a file
# system of that size, which it alone sees, to be told to "fill" and to "free": a tablespace "small" is on it or, with
# SMALL_DISK_FOR=wal, the write-ahead log.
set -eu
bin=
for found in $(command -v initdb >/dev/null && dirname "$(readlink -f "$(command -v initdb)")") \
    $(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -rV); do
    [ -x "$found/initdb" ] && [ -x "$found/pg_ctl" ] || continue
    # "initdb (PostgreSQL) 15.4 (Debian …)", "… 17beta1"
    version=$("$found/initdb" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
    if [ "${version:-0}" -ge 15 ]; then bin=$found; break; fi
done
[ -n "$bin" ] || { echo "missing"; exit 0; }
folder=$(mktemp -d /tmp/tollgate-postgres.XXXXXX)
as() { "$@"; }
if [ "$(id -u)" = 0 ]; then
    # PostgreSQL refuses to run as root.
    user=postgres
    id "$user" >/dev/null 2>&1 || user=nobody
    chown "$user" "$folder"
    as() { (cd "$folder" && runuser -u "$user" -- "$@"); }
fi
stop() {
    as "$bin/pg_ctl" -D "$folder/data" -m immediate -w stop >/dev/null 2>&1 || true
    [ -z "${SMALL_DISK:-}" ] || umount "$folder/small" || true
    rm -rf "$folder"
}
trap stop EXIT
trap 'exit 1' INT TERM
wal=
if [ -n "${SMALL_DISK:-}" ]; then
    as mkdir "$folder/small"
    mount -t tmpfs -o "size=$SMALL_DISK,mode=1777" tmpfs "$folder/small"
    [ "${SMALL_DISK_FOR:-}" != wal ] || wal="--waldir=$folder/small/wal --wal-segsize=1"
fi
as "$bin/initdb" -D "$folder/data" $wal -A trust -U tollgate -E UTF8 --no-locale --no-instructions >"$folder/log" 2>&1 \
    || { cat "$folder/log" >&2; exit 1; }
start() {
    as "$bin/pg_ctl" -D "$folder/data" -l "$folder/data/log" -w start \
        -o "-k $folder -c listen_addresses='' -c max_connections=500" >/dev/null \
        || { cat "$folder/data/log" >&2; exit 1; }
}
start
if [ -n "${SMALL_DISK:-}" ] && [ -z "$wal" ]; then
    as mkdir -m 700 "$folder/small/space"
    as "$bin/psql" -q -h "$folder" -U tollgate postgres -c "create tablespace small location '$folder/small/space'"
fi
echo "$folder"
while read -r order; do
    case "$order" in
        # It may have stopped by itself.
        stop) as "$bin/pg_ctl" -D "$folder/data" -m immediate -w stop >/dev/null 2>&1 || true ;;
        start) start ;;
        standby)
            as "$bin/pg_ctl" -D "$folder/data" -m fast -w stop >/dev/null
            as touch "$folder/data/standby.signal"
            start ;;
        promote) as "$bin/pg_ctl" -D "$folder/data" -w promote >/dev/null ;;
        fill) dd if=/dev/zero of="$folder/small/ballast" bs=8k 2>/dev/null || true ;;
        free) rm "$folder/small/ballast" ;;
        *) echo "not an order: $order" >&2; exit 1 ;;
    esac
    echo "$order"
done
