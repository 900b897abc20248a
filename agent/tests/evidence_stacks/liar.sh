#!/bin/sh
# A helper that answers wrongly, in the way that the name it is called by says.
case "$0" in
*/no_json) echo "no JSON" ;;
*/another_answer) echo '{"id":77,"answer":"forgotten"}' ;;
*/endless) yes x | tr -d '\n' ;;
esac
exec sleep 1000
