# Completes lightning-rlhf in bash: eval "$(lightning-rlhf -sc install=bash)"
_lightning_rlhf() {
    local line=${COMP_LINE:0:COMP_POINT}
    local word=${line##*[[:space:]]} tail candidate
    tail=$word
    # bash takes what follows = or : as a word of its own, and inserts only that.
    [[ $COMP_WORDBREAKS == *=* ]] && tail=${tail##*=}
    [[ $COMP_WORDBREAKS == *:* ]] && tail=${tail##*:}
    COMPREPLY=()
    while IFS= read -r candidate; do
        [[ -n $candidate ]] && COMPREPLY+=("${candidate#"${word%"$tail"}"}")
    done < <(COMP_LINE=$line "${COMP_WORDS[0]}" -sc query=bash 2>/dev/null)
    # The word goes on after one of these.
    [[ ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace
}
# Where there is no candidate, bash completes names of files.
complete -o default -F _lightning_rlhf lightning-rlhf
