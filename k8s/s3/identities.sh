# Print SeaweedFS's identities: the administrator, and one for each policy in the folder $1.
# The keys come from the environment; an empty one is refused: it would let anybody in.
set -eu

for pair in "$ADMIN_ACCESS_KEY_ID:$ADMIN_SECRET_ACCESS_KEY" "$STEPS_ACCESS_KEY_ID:$STEPS_SECRET_ACCESS_KEY" \
    "$MLFLOW_ACCESS_KEY_ID:$MLFLOW_SECRET_ACCESS_KEY" "$BACKUP_ACCESS_KEY_ID:$BACKUP_SECRET_ACCESS_KEY"; do
    case $pair in
    :* | *:) echo "an S3 key is empty; fill in every key of k8s/secrets.example.yaml" >&2; exit 1 ;;
    *[!A-Za-z0-9/+=_:.-]*) echo "an S3 key has a character other than A-Z a-z 0-9 / + = _ . -" >&2; exit 1 ;;
    esac
done

identity() {  # identity NAME ACCESS-KEY SECRET-KEY RIGHTS
    printf '{"name": "%s", "credentials": [{"accessKey": "%s", "secretKey": "%s"}], %s}' "$@"
}
policy() {  # policy NAME: SeaweedFS wants the document as a string
    printf '{"name": "%s", "content": "%s"}' "$1" "$(tr -d '\n' <"$folder/$1.json" | sed 's/"/\\"/g')"
}
folder=$1
cat <<END
{"identities": [
$(identity admin "$ADMIN_ACCESS_KEY_ID" "$ADMIN_SECRET_ACCESS_KEY" '"actions": ["Admin", "Read", "Write", "List", "Tagging"]'),
$(identity steps "$STEPS_ACCESS_KEY_ID" "$STEPS_SECRET_ACCESS_KEY" '"policyNames": ["steps"]'),
$(identity mlflow "$MLFLOW_ACCESS_KEY_ID" "$MLFLOW_SECRET_ACCESS_KEY" '"policyNames": ["mlflow"]'),
$(identity backup "$BACKUP_ACCESS_KEY_ID" "$BACKUP_SECRET_ACCESS_KEY" '"policyNames": ["backup"]')
], "policies": [
$(policy steps),
$(policy mlflow),
$(policy backup)
]}
END
