// Renders a template as Ollama does (template/template.go, Execute): on stdin a JSON object with the template and
// the conversations, on stdout the list of prompts.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct{ Role, Content string }

func main() {
	var input struct {
		Template      string
		Conversations [][]message
	}
	must(json.NewDecoder(os.Stdin).Decode(&input))
	parsed, err := template.New("").Option("missingkey=zero").Parse(input.Template)
	must(err)
	prompts := []string{}
	for _, conversation := range input.Conversations {
		system := []string{}
		for _, m := range conversation {
			if m.Role == "system" {
				system = append(system, m.Content)
			}
		}
		last := conversation[len(conversation)-1]
		var prompt strings.Builder
		must(parsed.Execute(&prompt, map[string]any{
			"System":   strings.Join(system, "\n\n"),
			"Messages": conversation,
			"Prompt":   last.Content,
			"Response": "",
		}))
		prompts = append(prompts, prompt.String())
	}
	must(json.NewEncoder(os.Stdout).Encode(prompts))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
